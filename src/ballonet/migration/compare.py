"""Which pages of a guest's memory differ from the copy made of them last, by looking at both.

For guests whose writes nobody can see from outside: User-Mode Linux maps its memory in several
processes.  It does not see *writes*: a page that was written with what it held before looks
untouched.  So a page must never be left out because it was free a while ago.
Holes are never filled: they are found by `held_pages`, and everything is read by `preadv`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import SystemCallError
from ballonet.memory.held_pages import held_pages
from ballonet.units import BALLOON_PAGE_BYTES, pages_to_bytes

__all__ = ["PIECE_PAGES", "CompareTracker", "FilePages", "no_report", "pieces_with"]

Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]

#: What is read and compared at a time: it stays in the processor's cache in between.
PIECE_PAGES: Final = 256
_PAGE_WORDS: Final = BALLOON_PAGE_BYTES // 8


class FilePages(NamedTuple):
    """Pages that lie in a file, one behind the other."""

    fd: int
    pages: int
    what: str  #: for messages
    offset: int = 0  #: of the first page, in bytes

    def held(self) -> Bools:
        """Which of them are no holes. Raises: SystemCallError."""
        try:
            return held_pages(self.fd, self.pages, self.offset)
        except OSError as error:
            raise _failed(self.what, error.strerror or str(error)) from error

    def read(self, first: int, buffer: Words) -> None:
        """Fill a buffer with pages from `first` on, holes as zeros.

        Raises: SystemCallError, also if the file ends before.
        """
        view = buffer.data.cast("B")
        at, done = self.offset + pages_to_bytes(first), 0
        try:
            while done < len(view):
                count = os.preadv(self.fd, [view[done:]], at + done)
                if not count:
                    raise _failed(self.what, "it was cut short")
                done += count
        except OSError as error:
            raise _failed(self.what, error.strerror or str(error)) from error


def _failed(what: str, reason: str) -> SystemCallError:
    return SystemCallError("reading", what, reason)


def no_report(_: int) -> None:
    """For callers who only want the result."""


class CompareTracker:
    """Compares memory with a copy of it, both in files.

    `sees_writes` is False: hints must not be applied to what it finds.  `there` says which pages
    the copy has now; the others are zeros, whatever stands in its file.
    """

    sees_writes: Final = False

    def __init__(self, memory: FilePages, copy: FilePages, there: Callable[[], Bools]) -> None:
        self._memory, self._copy, self._there = memory, copy, there
        words = PIECE_PAGES * _PAGE_WORDS
        self._buffers: Final = (np.empty(words, np.uint64), np.empty(words, np.uint64))

    def scan(self, report: Callable[[int], None] = no_report) -> Bools:
        """For each page whether memory and copy differ now; a hole is zeros.

        What the guest writes meanwhile may be seen or not.  Before each piece `report` is given the
        pages done.
        Raises: SystemCallError.
        """
        held, there = self._memory.held(), self._there()
        changed = np.zeros(self._memory.pages, np.bool_)
        for part in pieces_with(held | there):
            report(part.start)
            now = self._read(self._memory, part, 0, is_wanted=bool(held[part].any()))
            before = self._read(self._copy, part, 1, is_wanted=bool(there[part].any()))
            if not there[part].all():
                before.reshape(-1, _PAGE_WORDS)[~there[part]] = 0
            differs = now != before
            if differs.any():  # which is rare, and finding out which page costs more
                changed[part] = differs.reshape(-1, _PAGE_WORDS).any(axis=1)
        return changed

    def _read(self, pages: FilePages, part: slice, which: int, *, is_wanted: bool) -> Words:
        """A part in one of our buffers; zeros if there is nothing to be read."""
        words = self._buffers[which][: (part.stop - part.start) * _PAGE_WORDS]
        if is_wanted:
            pages.read(part.start, words)
        else:
            words.fill(0)
        return words


def pieces_with(wanted: Bools) -> Iterator[slice]:
    """Pieces of at most `PIECE_PAGES` pages in which any page is wanted, ascending."""
    starts = np.arange(0, wanted.size, PIECE_PAGES)
    if starts.size:
        for start in starts[np.logical_or.reduceat(wanted, starts)].tolist():
            yield slice(start, min(start + PIECE_PAGES, wanted.size))
