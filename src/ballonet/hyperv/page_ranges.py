"""Sets of pages kept as ranges: a guest names thousands of pages with one number.

Whole arrays in, whole arrays out; work and memory grow with the number of ranges, never with the
pages they name, so that a range of 64 GiB that a guest makes up costs as much as one page.
Every `PageRuns` here is what its name says: ascending, no page twice, never touching.
Units: 4 KiB pages.  Source: QEMU hw/hyperv/hv-balloon-page_range_tree.c, which keeps a tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from ballonet.memory.regions import RegionTable
from ballonet.memory.runs import Int64s, PageRuns
from ballonet.units import BALLOON_PAGE_BYTES, bytes_to_pages

__all__ = [
    "NO_PAGES",
    "PageRangeSet",
    "common_pages",
    "cut_runs",
    "each_page",
    "join_runs",
    "memory_pages",
    "merge_ranges",
    "without_pages",
]

NO_PAGES: Final = PageRuns(np.empty(0, np.int64), np.empty(0, np.int64))
_FAR: Final = np.iinfo(np.int64).max


class PageRangeSet:
    """Pages of which some are added and the lowest taken out again."""

    def __init__(self) -> None:
        self.pages = 0  #: how many are in it
        self._firsts: Int64s = np.empty(0, np.int64)
        self._ends: Int64s = np.empty(0, np.int64)  # of each range, the page behind its last

    def __len__(self) -> int:
        """How many ranges it keeps."""
        return self._firsts.size

    @property
    def runs(self) -> PageRuns:
        """All its pages."""
        return PageRuns(self._firsts, self._ends - self._firsts)

    def add(self, runs: PageRuns) -> PageRuns:
        """Take pages in; returns those that were not here."""
        if not runs.pages.size:
            return NO_PAGES
        firsts, ends = runs.first_pfns, runs.first_pfns + runs.pages
        # Only what overlaps or touches can change; all else stays as it is.
        low = int(np.searchsorted(self._ends, firsts[0], "left"))
        high = int(np.searchsorted(self._firsts, ends[-1], "right"))
        near = _runs(self._firsts[low:high], self._ends[low:high])
        fresh = without_pages(runs, near)
        merged = join_runs(near, runs)
        joined = merged.first_pfns + merged.pages
        self._firsts = np.concatenate((self._firsts[:low], merged.first_pfns, self._firsts[high:]))
        self._ends = np.concatenate((self._ends[:low], joined, self._ends[high:]))
        self.pages += fresh.total_pages
        return fresh

    def take_lowest(self, pages: int) -> tuple[int, int] | None:
        """Take out the lowest range, or its first `pages` pages; first and number, None of none."""
        if not self._firsts.size:
            return None
        first = int(self._firsts[0])
        taken = min(pages, int(self._ends[0]) - first)
        if first + taken == self._ends[0]:
            self._firsts, self._ends = self._firsts[1:], self._ends[1:]
        else:
            self._firsts = self._firsts.copy()  # what `runs` returned must not change
            self._firsts[0] += taken
        self.pages -= taken
        return first, taken


def merge_ranges(ranges: PageRuns) -> PageRuns:
    """Runs of what ranges of any order name, which may overlap, repeat, or be empty."""
    some = ranges.pages > 0
    firsts, pages = ranges.first_pfns[some], ranges.pages[some]
    if not firsts.size:
        return NO_PAGES
    order = np.argsort(firsts, kind="stable")
    firsts = firsts[order]
    reach = np.maximum.accumulate(firsts + pages[order])
    breaks = np.flatnonzero(firsts[1:] > reach[:-1]) + 1
    starts = firsts[np.concatenate(([0], breaks))]
    return _runs(starts, reach[np.concatenate((breaks, [firsts.size])) - 1])


def join_runs(*parts: PageRuns) -> PageRuns:
    """Pages that are in any of these."""
    firsts = np.concatenate([part.first_pfns for part in parts])
    return merge_ranges(PageRuns(firsts, np.concatenate([part.pages for part in parts])))


def common_pages(runs: PageRuns, others: PageRuns) -> PageRuns:
    """Pages that are in both."""
    firsts, ends = runs.first_pfns, runs.first_pfns + runs.pages
    other_firsts, other_ends = others.first_pfns, others.first_pfns + others.pages
    low = np.searchsorted(other_ends, firsts, "right")
    counts = np.maximum(np.searchsorted(other_firsts, ends, "left") - low, 0)
    mine = np.repeat(np.arange(firsts.size), counts)
    theirs = np.arange(mine.size) - np.repeat(np.cumsum(counts) - counts, counts) + low[mine]
    starts = np.maximum(firsts[mine], other_firsts[theirs])
    return _runs(starts, np.minimum(ends[mine], other_ends[theirs]))


def without_pages(runs: PageRuns, others: PageRuns) -> PageRuns:
    """Pages of the first that are not in the second."""
    if not others.pages.size:
        return runs
    gaps = _runs(
        np.concatenate(([0], others.first_pfns + others.pages)),
        np.concatenate((others.first_pfns, [_FAR])),
    )
    return common_pages(runs, gaps)


def memory_pages(table: RegionTable) -> PageRuns:
    """Pages that lie wholly in one region of guest memory."""
    firsts = [-(-region.gpa // BALLOON_PAGE_BYTES) for region in table.regions]
    ends = [bytes_to_pages(region.gpa + region.size) for region in table.regions]
    return merge_ranges(_runs(np.array(firsts, np.int64), np.array(ends, np.int64)))


def cut_runs(runs: PageRuns, most: int) -> Iterator[PageRuns]:
    """The same pages in order, at most so many at a time."""
    firsts, ends = runs.first_pfns, runs.first_pfns + runs.pages
    while firsts.size:
        total = np.cumsum(ends - firsts)
        last = int(np.searchsorted(total, most))
        if last >= firsts.size:
            yield _runs(firsts, ends)
            return
        border = int(ends[last]) - (int(total[last]) - most)
        part_firsts, part_ends = firsts[: last + 1], ends[: last + 1].copy()
        part_ends[last] = border
        yield _runs(part_firsts, part_ends)
        begins_next = last + (border == ends[last])
        firsts, ends = firsts[begins_next:].copy(), ends[begins_next:]
        if begins_next == last:
            firsts[0] = border


def each_page(runs: PageRuns) -> Int64s:
    """Every page, ascending: for as many as somebody may keep a number for."""
    ends = np.cumsum(runs.pages)
    pages: Int64s = np.repeat(runs.first_pfns - (ends - runs.pages), runs.pages)
    return pages + np.arange(pages.size)


def _runs(firsts: Int64s, ends: Int64s) -> PageRuns:
    return PageRuns(firsts, ends - firsts)
