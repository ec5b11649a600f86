"""What a balloon needs of guest memory."""

from __future__ import annotations

from typing import Protocol

from ballonet.memory.regions import RegionTable
from ballonet.memory.runs import DiscardResult, Ranges

__all__ = ["BalloonMemory"]


class BalloonMemory(Protocol):
    """Guest memory, and the table that says where it lies."""

    @property
    def table(self) -> RegionTable:
        """The regions."""
        ...

    def view(self, gpa: int, length: int) -> memoryview:
        """A window on `length` bytes; the caller copies what it uses and keeps no reference.

        Raises: GuestMemoryError, unless the range lies wholly in one region.
        """
        ...

    def discard(self, ranges: Ranges) -> DiscardResult:
        """Drop the host memory behind ranges of one region; an error is reported, never raised."""
        ...
