"""Free page hints, taken out of what a pass has still to send.

A hint says "free now"; the guest may use the page again at any moment after.  Leaving it out is
safe only because that use is a write which the next reading of the log reports: so a hint counts
for the round it was given in, a round lies between two readings, and where writes are not seen
there are no hints at all.  A page that was taken back and filled with the same bytes looks
unchanged to whoever only compares.
Source: VIRTIO 1.4 5.5.6.5; QEMU qemu_guest_free_page_hint.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import MigrationError
from ballonet.memory.runs import PageRuns

__all__ = ["HintFilter", "HintSource"]


class HintSource(Protocol):
    """The device that asks the guest for hints."""

    def begin(self) -> int:
        """Begin a round; returns its id."""
        ...

    def take(self, wait_ns: int) -> Iterable[tuple[int, PageRuns]]:
        """What came since the last call, each with the id of its round.

        Waits so long for the driver to say that it has no more, if it has not.
        """
        ...

    def stop(self) -> None:
        """End the round; none of its hints comes after this."""
        ...

    def done(self) -> None:
        """Let the guest have its pages back."""
        ...


class HintFilter:
    """The hints of one migration."""

    def __init__(self, source: HintSource, *, sees_writes: bool) -> None:
        """Raises: MigrationError, if whoever tracks the guest does not see it write."""
        if not sees_writes:
            raise MigrationError(
                "hints need a guest whose writes are seen: a page that was hinted, used again and"
                " filled with the same bytes would be lost"
            )
        self._source = source
        self._round: int | None = None  # the id of the one under way

    def begin(self) -> None:
        """Begin a round; right after the log was read."""
        self._round = self._source.begin()

    def apply(
        self, pending: NDArray[np.bool_], left_out: NDArray[np.bool_], wait_ns: int = 0
    ) -> int:
        """Move what is hinted from one set to the other; returns the pages."""
        taken = 0
        for number, runs in self._source.take(wait_ns):
            if number == self._round:
                taken += _move(pending, left_out, runs)
        return taken

    def stop(self) -> None:
        """End the round; right before the log is read."""
        self._round = None
        self._source.stop()

    def done(self) -> None:
        """Let the guest have its pages back."""
        self._round = None
        self._source.done()


def _move(pending: NDArray[np.bool_], left_out: NDArray[np.bool_], runs: PageRuns) -> int:
    moved = 0
    for first, pages in runs.pairs():
        part = pending[first : first + pages]
        moved += int(np.count_nonzero(part))
        left_out[first : first + pages] |= part
        part[:] = False
    return moved
