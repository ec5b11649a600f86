"""Which pages of one guest are locked: the host's, by calls that were answered.

A balloon page is locked by itself or as a part of 2 MiB, never both, and is unlocked as it was
locked.
Theory of operation.  One byte for each balloon page of the guest's memory, so that a batch of 512
costs a few lookups however much is locked.  The array is made of zeros and costs nothing where no
page was ever locked.
Not here: whether a page may be locked (host), what is done to its memory (balloon).
Units: 4 KiB balloon pages; blocks of 2 MiB by their first page.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ballonet.memory.regions import RegionTable
from ballonet.units import BALLOON_PAGE_BYTES, bytes_to_pages
from ballonet.vmware.calls import HUGE_PAGES, Pfns

__all__ = ["LockedPages"]

Places = NDArray[np.int64]
Mask = NDArray[np.bool_]


class _State(IntEnum):
    """Of one balloon page."""

    GUESTS = 0
    LOCKED = 1  #: by itself
    IN_BLOCK = 2


class LockedPages:
    """Of the memory that a table describes; `pages` is 1, or 512 for a block of 2 MiB."""

    def __init__(self, table: RegionTable) -> None:
        extents = _extents(table)
        self._firsts: Places = np.array([first for first, _ in extents], np.int64)
        self._ends: Places = np.array([end for _, end in extents], np.int64)
        sizes = self._ends - self._firsts
        self._bases: Places = np.cumsum(sizes) - sizes
        self._states: NDArray[np.uint8] = np.zeros(int(sizes.sum()), np.uint8)
        self.small = 0  #: pages locked by themselves
        self.blocks = 0  #: of 2 MiB

    @property
    def total_pages(self) -> int:
        """Balloon pages that are locked."""
        return self.small + self.blocks * HUGE_PAGES

    @property
    def pfns(self) -> Places:
        """Every balloon page that is locked, ascending."""
        places = np.flatnonzero(self._states)
        extent = np.searchsorted(self._bases, places, side="right") - 1
        return places - self._bases[extent] + self._firsts[extent]

    def name_memory(self, heads: Pfns, pages: int) -> Mask:
        """Which of these pages lie wholly in memory, and on a border of their size."""
        if not self._firsts.size:
            return np.zeros(heads.shape, np.bool_)
        starts = heads.astype(np.int64)  # page numbers have 52 bits
        extent = np.searchsorted(self._firsts, starts, side="right") - 1
        inside = (extent >= 0) & (starts + pages <= self._ends[extent])
        return np.asarray(inside & (starts % pages == 0))

    def overlap(self, heads: Pfns, pages: int) -> Mask:
        """Which of these pages, all in memory, are locked in whole or in part, in either way."""
        if not heads.size:
            return np.zeros(0, np.bool_)
        states = self._states[self._places(heads, pages)]
        return np.asarray(states.any(axis=1))

    def hold(self, heads: Pfns, pages: int) -> Mask:
        """Which of these pages, all in memory, are locked as what they are."""
        if not heads.size:
            return np.zeros(0, np.bool_)
        states = self._states[self._places(heads, 1)[:, 0]]
        return np.asarray(states == (_State.LOCKED if pages == 1 else _State.IN_BLOCK))

    def lock(self, heads: Pfns, pages: int) -> None:
        """Lock pages that are not, each once."""
        self._set(heads, pages, _State.LOCKED if pages == 1 else _State.IN_BLOCK, heads.size)

    def unlock(self, heads: Pfns, pages: int) -> None:
        """Unlock pages that `hold` says are locked, each once."""
        self._set(heads, pages, _State.GUESTS, -heads.size)

    def _set(self, heads: Pfns, pages: int, state: _State, count: int) -> None:
        if heads.size:
            self._states[self._places(heads, pages)] = state
        if pages == 1:
            self.small += count
        else:
            self.blocks += count

    def _places(self, heads: Pfns, pages: int) -> Places:
        """A row of places for each page."""
        starts = heads.astype(np.int64)
        extent = np.searchsorted(self._firsts, starts, side="right") - 1
        places = starts - self._firsts[extent] + self._bases[extent]
        return places[:, None] + np.arange(pages)


def _extents(table: RegionTable) -> list[tuple[int, int]]:
    """First page and end of each piece of memory without a hole: regions that touch make one."""
    found: list[tuple[int, int]] = []
    for region in table.regions:
        first = -(-region.gpa // BALLOON_PAGE_BYTES)
        end = bytes_to_pages(region.gpa + region.size)
        if found and found[-1][1] == first < end:
            found[-1] = found[-1][0], end
        elif first < end:
            found.append((first, end))
    return found
