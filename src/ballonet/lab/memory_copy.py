"""A copy of a guest's memory as it was at one moment, to be compared with what it becomes.

It sees changes, not writes: a page that is written with what it held looks untouched.
Units: balloon pages.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from ballonet.migration.compare import PIECE_PAGES, CompareTracker, FilePages, pieces_with
from ballonet.units import BALLOON_PAGE_BYTES, pages_to_bytes

__all__ = ["MemoryCopy"]

Bools = NDArray[np.bool_]

_PAGE_WORDS: Final = BALLOON_PAGE_BYTES // 8


class MemoryCopy:
    """Copies one guest's memory as often as wanted; a context manager."""

    def __init__(self, memory: FilePages) -> None:
        self._memory = memory
        self._fd = os.memfd_create("ballonet-lab-copy", os.MFD_CLOEXEC)
        self._copy = FilePages(self._fd, memory.pages, "a copy of guest memory")
        self._buffer = np.empty(PIECE_PAGES * _PAGE_WORDS, np.uint64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def take(self) -> None:
        """Copy it as it is now; the guest may run. Raises: SystemCallError."""
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, pages_to_bytes(self._memory.pages))
        for piece in pieces_with(self._memory.held()):
            words = self._buffer[: (piece.stop - piece.start) * _PAGE_WORDS]
            self._memory.read(piece.start, words)
            os.pwrite(self._fd, words.data.cast("B"), pages_to_bytes(piece.start))

    def changed(self) -> Bools:
        """Which pages are not as they were copied. Raises: SystemCallError."""
        return CompareTracker(self._memory, self._copy, self._copy.held).scan()
