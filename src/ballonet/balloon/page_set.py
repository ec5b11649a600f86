"""Host pages of one region that wait to be dropped: filled at random, emptied from below.

Kept as one ascending array, so it takes as much memory as there are pages in it, however large the
region; a map with a place for every page would have to be made, and searched, for all of it.
Units: host pages, counted from the start of the page that the region begins in.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ballonet.memory.runs import Int64s

__all__ = ["PageSet"]

#: Ranges of one step: at most a millisecond of the kernel's work.
_RANGES_MAX: Final = 256
#: How far one step looks.
_LOOK_PAGES: Final = 1 << 10


class PageSet:
    """Ascending page numbers, each once."""

    def __init__(self) -> None:
        self._pages: Int64s = np.empty(0, np.int64)

    def __len__(self) -> int:
        return self._pages.size

    def add(self, pages: Int64s) -> None:
        """Take in ascending pages, each once; those that are here already change nothing."""
        mine = self._pages
        if not mine.size or not pages.size:
            self._pages = pages if pages.size else mine
        elif pages[0] > mine[-1]:
            self._pages = np.concatenate((mine, pages))
        elif pages[-1] < mine[0]:
            self._pages = np.concatenate((pages, mine))
        else:
            fresh = self.without(pages)
            self._pages = np.insert(mine, np.searchsorted(mine, fresh), fresh)

    def discard(self, pages: Int64s) -> None:
        """Leave out ascending pages, as far as they are here."""
        mine = self._pages
        if not mine.size or not pages.size:
            return
        places = np.searchsorted(mine, pages)
        inside = places < mine.size
        places = places[inside]
        found = places[mine[places] == pages[inside]]
        if found.size:
            self._pages = np.delete(mine, found)

    def without(self, pages: Int64s) -> Int64s:
        """Those of some ascending pages that are not here."""
        mine = self._pages
        if not mine.size or not pages.size:
            return pages
        places = np.minimum(np.searchsorted(mine, pages), mine.size - 1)
        missing: Int64s = pages[mine[places] != pages]
        return missing

    def take_lowest(self, block: int, base: int) -> tuple[Int64s, Int64s]:
        """Take the lowest pages out, about a block of them; returns where ranges begin and end.

        A block is what the kernel may have as one huge page, and `base` says how many pages lie
        before the region in its first one.  Ranges end at the border of a block where they can: to
        drop half a huge page costs the kernel many times what the whole one costs.
        """
        mine = self._pages
        first = int(mine[0])
        to_border = block - (first + base) % block
        if mine.size >= to_border and mine[to_border - 1] - first == to_border - 1:
            self._keep_from(to_border)
            return np.array([first]), np.array([first + to_border])
        window = mine[:_LOOK_PAGES]
        breaks = np.flatnonzero(window[1:] - window[:-1] > 1) + 1
        firsts = window[np.concatenate(([0], breaks))]
        ends = window[np.concatenate((breaks, [window.size])) - 1] + 1
        firsts, ends = _cut(firsts[:_RANGES_MAX], ends[:_RANGES_MAX], block)
        taken = int((ends - firsts).sum())
        if taken < mine.size and mine[taken] == ends[-1]:  # it goes on there
            border = (int(ends[-1]) + base) // block * block - base
            if border > firsts[-1]:
                taken -= int(ends[-1]) - border
                ends[-1] = border
        self._keep_from(taken)
        return firsts, ends

    def _keep_from(self, place: int) -> None:
        """Let go of the lowest; nothing is kept of an empty set."""
        self._pages = self._pages[place:] if place < self._pages.size else np.empty(0, np.int64)


def _cut(firsts: Int64s, ends: Int64s, most: int) -> tuple[Int64s, Int64s]:
    """As many of the first ranges as make `most` pages."""
    total = np.cumsum(ends - firsts)
    last = int(np.searchsorted(total, most))
    if last >= firsts.size:
        return firsts, ends
    ends = ends[: last + 1].copy()
    ends[last] -= int(total[last]) - most
    return firsts[: last + 1], ends
