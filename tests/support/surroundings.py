"""Everything around a device: guest memory that tells of each discard, and a driver's transport."""

from __future__ import annotations

from collections.abc import Callable

from ballonet.balloon.memory import BalloonMemory
from ballonet.memory.regions import RegionTable
from ballonet.memory.runs import DiscardResult, Ranges

#: For a device that may work until nothing is left to do.
FOR_EVER_NS = 1 << 62


def ignore(_: Ranges) -> None:
    """For those who look at `discards` afterwards."""


class Surroundings:
    """A `BalloonMemory` and a `Transport` at once; nothing is really dropped."""

    def __init__(self, memory: BalloonMemory, discarded: Callable[[Ranges], None] = ignore) -> None:
        """`discarded` is called in the middle of each discard."""
        self._memory, self._discarded = memory, discarded
        self.discards: list[Ranges] = []
        self.calls: list[int] = []
        self.config_changes = 0

    @property
    def table(self) -> RegionTable:
        return self._memory.table

    def view(self, gpa: int, length: int) -> memoryview:
        return self._memory.view(gpa, length)

    def discard(self, ranges: Ranges) -> DiscardResult:
        self.discards.append(ranges)
        self._discarded(ranges)
        return DiscardResult(calls=1, discarded_bytes=ranges.total_bytes)

    def call(self, queue: int) -> None:
        self.calls.append(queue)

    def config_changed(self) -> None:
        self.config_changes += 1
