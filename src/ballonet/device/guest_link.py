"""The way to the guest of the moment: its memory, and its driver.

A device outlives its guests.  Between two of them it is linked to nobody: no ring is attached
then, so nothing is read, dropped or told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ballonet.balloon.memory import BalloonMemory
from ballonet.errors import GuestMemoryError
from ballonet.memory.regions import RegionTable
from ballonet.memory.runs import DiscardResult, Ranges

__all__ = ["GuestLink", "Transport"]


class Transport(Protocol):
    """How the device reaches its driver; neither call waits or fails."""

    def call(self, queue: int) -> None:
        """Tell the driver that the queue has used chains."""
        ...

    def config_changed(self) -> None:
        """Tell the driver to read its configuration again."""
        ...


class _Nobody:
    """No guest is there; a `BalloonMemory` without a region, and a `Transport`."""

    table = RegionTable([])

    def view(self, gpa: int, length: int) -> memoryview:
        raise GuestMemoryError(gpa, length)

    def discard(self, ranges: Ranges) -> DiscardResult:
        return DiscardResult(failed_bytes=ranges.total_bytes)

    def call(self, queue: int) -> None:
        """Nobody hears it."""

    def config_changed(self) -> None:
        """Nobody hears it."""


_NOBODY = _Nobody()


@dataclass(slots=True)
class GuestLink:
    """Shared by all parts of one device, which keep no part of it themselves."""

    memory: BalloonMemory = _NOBODY
    transport: Transport = _NOBODY

    def cut(self) -> None:
        """The guest is gone."""
        self.memory = self.transport = _NOBODY
