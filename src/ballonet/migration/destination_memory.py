"""What a migration needs of the memory that it fills."""

from __future__ import annotations

from typing import Protocol

from ballonet.memory.runs import PageRuns

__all__ = ["ComparedMemory", "DestinationMemory"]


class DestinationMemory(Protocol):
    """Guest memory that a migration fills; it is one hole at first, and reads as zero."""

    def write(self, runs: PageRuns, data: memoryview) -> None:
        """Put pages there, the data of each run after that of the one before it."""

    def make_holes(self, runs: PageRuns) -> None:
        """Let pages hold no memory, and read as zero."""


class ComparedMemory(DestinationMemory, Protocol):
    """One that can be looked at, too."""

    def read(self, runs: PageRuns, buffer: memoryview) -> None:
        """Fill a buffer with pages, a hole as zeros."""
