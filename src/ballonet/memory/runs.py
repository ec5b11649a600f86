"""What a list of page numbers means: which ranges of which regions the host may drop.

Whole arrays in, whole arrays out; the only loop is over regions.  A PFN outside every region, or
only partly inside one, is left out and counted.  Where the host page is bigger than 4 KiB only
host pages that were given whole remain.
Source: VIRTIO 1.4 5.5.6 sets no order, and duplicates are legal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import GuestMemoryError
from ballonet.memory.regions import Region, RegionTable
from ballonet.units import BALLOON_PAGE_BYTES, BALLOON_PAGE_SHIFT

__all__ = [
    "DiscardResult",
    "Located",
    "PageRuns",
    "Ranges",
    "distinct",
    "find_pieces",
    "locate",
    "locate_runs",
    "merge_messages",
    "merge_pfns",
]

Int64s = NDArray[np.int64]


class PageRuns(NamedTuple):
    """Adjacent balloon pages: ascending, no duplicates, never touching."""

    first_pfns: Int64s
    pages: Int64s

    @property
    def total_pages(self) -> int:
        """Balloon pages in all the runs."""
        return int(self.pages.sum())

    def pairs(self) -> Iterator[tuple[int, int]]:
        """First page and number of pages of each run; for few runs, or work that costs more."""
        return zip(self.first_pfns.tolist(), self.pages.tolist(), strict=True)


class Ranges(NamedTuple):
    """Byte ranges inside one region: ascending, whole host pages, never touching."""

    region: int
    offsets: Int64s
    lengths: Int64s

    @property
    def total_bytes(self) -> int:
        """Bytes in all the ranges."""
        return int(self.lengths.sum())

    def split_blocks(self, block_bytes: int, lead: int) -> int:
        """Blocks of memory, `lead` bytes after a border of one, of which these cover only a part.

        Units: bytes; a power of two.
        """
        rest = block_bytes - 1
        if self.offsets.size == 1:
            start = int(self.offsets[0]) + lead
            end = start + int(self.lengths[0])
            if start | rest == end | rest:
                return 1
            return int(start & rest > 0) + int(end & rest > 0)
        # Where a range begins or ends inside a block, it cuts that block; both lists ascend.
        borders = np.empty(2 * self.offsets.size, np.int64)
        np.add(self.offsets, lead, out=borders[::2])
        np.add(borders[::2], self.lengths, out=borders[1::2])
        cut = borders[borders & rest > 0] // block_bytes
        return min(cut.size, 1) + int(np.count_nonzero(cut[1:] != cut[:-1]))

    def slices(self, count: int) -> Iterator[Ranges]:
        """The same ranges, at most `count` of them at a time."""
        for start in range(0, len(self.offsets), count):
            stop = start + count
            yield Ranges(self.region, self.offsets[start:stop], self.lengths[start:stop])


@dataclass(frozen=True, slots=True)
class DiscardResult:
    """What one discard did; `discarded_bytes` were dropped without an error of the kernel."""

    calls: int = 0  #: of the system
    discarded_bytes: int = 0
    failed_bytes: int = 0
    split_blocks: int = 0  #: aligned huge pages of the host, of which only a part was to be dropped
    error: OSError | None = None


class Located(NamedTuple):
    """Where a list of page numbers lies."""

    ranges: tuple[Ranges, ...]
    accepted_pages: int  #: distinct balloon pages wholly inside a region
    rejected_pages: int  #: distinct balloon pages that are not


def merge_pfns(pfns: NDArray[np.unsignedinteger]) -> PageRuns:
    """Join adjacent page numbers into runs.

    Units: balloon pages.  Cost: one sort; none for one run, which is what Linux mostly sends.
    """
    if not pfns.size:
        return PageRuns(np.empty(0, np.int64), np.empty(0, np.int64))
    first, last = int(pfns[0]), int(pfns[-1])
    if abs(last - first) == pfns.size - 1 and _is_one_run(pfns, first, last):
        return PageRuns(np.array([min(first, last)]), np.array([pfns.size]))
    ordered = np.sort(pfns).astype(np.int64)
    breaks = np.flatnonzero(ordered[1:] - ordered[:-1] > 1) + 1
    firsts = ordered[np.concatenate(([0], breaks))]
    lasts = ordered[np.concatenate((breaks, [ordered.size])) - 1]
    return PageRuns(firsts, lasts - firsts + 1)


def merge_messages(messages: Sequence[NDArray[np.unsignedinteger]]) -> PageRuns:
    """Join the page numbers of many messages into runs; what `merge_pfns` makes of all of them.

    Where each message is one run, as Linux mostly sends them, only the runs are sorted: a tenth of
    the cost.  Units: balloon pages.
    """
    runs = _one_run_each(messages)
    return merge_pfns(np.concatenate(messages)) if runs is None else runs


def _one_run_each(messages: Sequence[NDArray[np.unsignedinteger]]) -> PageRuns | None:
    """Runs of messages of one size that are each one run; None of others."""
    size = messages[0].size
    if not size or any(message.size != size for message in messages):
        return None
    rows = np.concatenate(messages).reshape(len(messages), size).astype(np.int64)
    steps = rows[:, 1:] - rows[:, :-1]
    if (steps == -1).all():
        firsts = rows[:, -1]
    elif (steps == 1).all():
        firsts = rows[:, 0]
    else:
        return None
    ordered = np.sort(firsts)
    gaps = ordered[1:] - ordered[:-1]
    breaks = np.flatnonzero(gaps > size) + 1
    starts = ordered[np.concatenate(([0], breaks))]
    ends = ordered[np.concatenate((breaks, [ordered.size])) - 1] + size
    return PageRuns(starts, ends - starts)


def _is_one_run(pfns: NDArray[np.unsignedinteger], first: int, last: int) -> bool:
    """Each number is the one before and one, or each is the one before less one."""
    above, below = (pfns[1:], pfns[:-1]) if first <= last else (pfns[:-1], pfns[1:])
    return bool((above - below == 1).all())


def distinct(numbers: Int64s) -> Int64s:
    """The numbers, none negative, ascending and each once.

    numpy.unique would load numpy.ma at its first call, 10 ms that a guest would wait for.
    """
    ordered = np.sort(numbers)
    is_new = np.empty(ordered.size, np.bool_)
    is_new[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    return ordered[is_new]


def find_pieces(pieces: Iterable[tuple[int, int]], table: RegionTable) -> tuple[PageRuns, int]:
    """Whole balloon pages in pieces of guest memory, given as address and bytes.

    Ends that are no page border are rounded inwards: a page given only in part is not given.
    Returns the runs, and how many pieces were left out because they do not lie in one region.
    """
    spans: list[tuple[int, int]] = []
    rejected = 0
    for gpa, length in pieces:
        try:
            table.find(gpa, length)
        except GuestMemoryError:
            rejected += 1
        else:
            first, end = -(-gpa >> BALLOON_PAGE_SHIFT), (gpa + length) >> BALLOON_PAGE_SHIFT
            if end > first:
                spans.append((first, end))
    return _merge_spans(spans), rejected


def _merge_spans(spans: list[tuple[int, int]]) -> PageRuns:
    """Join spans of pages that overlap or touch."""
    if not spans:
        return PageRuns(np.empty(0, np.int64), np.empty(0, np.int64))
    firsts, ends = np.array(sorted(spans), np.int64).T
    reach = np.maximum.accumulate(ends)
    breaks = np.flatnonzero(firsts[1:] > reach[:-1]) + 1
    starts = firsts[np.concatenate(([0], breaks))]
    stops = reach[np.concatenate((breaks, [firsts.size])) - 1]
    return PageRuns(starts, stops - starts)


def locate(pfns: NDArray[np.unsignedinteger], table: RegionTable) -> Located:
    """Translate page numbers to ranges that may be discarded."""
    return locate_runs(merge_pfns(pfns), table)


def locate_runs(runs: PageRuns, table: RegionTable) -> Located:
    """Translate runs of pages to ranges that may be discarded."""
    if runs.pages.size == 1:
        return _locate_one(int(runs.first_pfns[0]), int(runs.pages[0]), table)
    if runs.pages.size:
        inside_one = _locate_inside_one(runs, table)
        if inside_one is not None:
            return inside_one
    ends = runs.first_pfns + runs.pages
    found: list[Ranges] = []
    accepted = 0
    for index, region in enumerate(table.regions):
        first, end = _pages_inside(region)
        starts, stops = np.maximum(runs.first_pfns, first), np.minimum(ends, end)
        inside = stops > starts
        starts, stops = starts[inside], stops[inside]
        accepted += int((stops - starts).sum())
        ranges = _whole_host_pages(index, region, starts, stops)
        if ranges.offsets.size:
            found.append(ranges)
    return Located(tuple(found), accepted, runs.total_pages - accepted)


def _locate_one(first_pfn: int, pages: int, table: RegionTable) -> Located:
    """The same for one run, at a fraction of the cost."""
    found: list[Ranges] = []
    accepted = 0
    for index, region in enumerate(table.regions):
        first, end = _pages_inside(region)
        start, stop = max(first_pfn, first), min(first_pfn + pages, end)
        if stop <= start:
            continue
        accepted += stop - start
        to_file, page = region.file_offset - region.gpa, region.page_bytes
        begin = -(-((start << BALLOON_PAGE_SHIFT) + to_file) // page) * page
        length = ((stop << BALLOON_PAGE_SHIFT) + to_file) // page * page - begin
        if length > 0:
            offset = begin - region.file_offset
            found.append(Ranges(index, np.array([offset]), np.array([length])))
    return Located(tuple(found), accepted, pages - accepted)


def _locate_inside_one(runs: PageRuns, table: RegionTable) -> Located | None:
    """The same where all runs lie in one region of small host pages; None where they do not."""
    lowest, end = int(runs.first_pfns[0]), int(runs.first_pfns[-1] + runs.pages[-1])
    for index, region in enumerate(table.regions):
        first, stop = _pages_inside(region)
        if first <= lowest and end <= stop and _is_page_by_page(region):
            offsets = (runs.first_pfns << BALLOON_PAGE_SHIFT) - region.gpa
            ranges = Ranges(index, offsets, runs.pages << BALLOON_PAGE_SHIFT)
            return Located((ranges,), runs.total_pages, 0)
    return None


def _is_page_by_page(region: Region) -> bool:
    """Each balloon page is just one host page."""
    to_file = region.file_offset - region.gpa
    return region.page_bytes == BALLOON_PAGE_BYTES and to_file % BALLOON_PAGE_BYTES == 0


def _pages_inside(region: Region) -> tuple[int, int]:
    """First balloon page wholly inside a region, and the first one after the last such."""
    first = -(-region.gpa // BALLOON_PAGE_BYTES)
    end = (region.gpa + region.size) // BALLOON_PAGE_BYTES
    return first, max(first, end)


def _whole_host_pages(index: int, region: Region, starts: Int64s, stops: Int64s) -> Ranges:
    """Round page runs inwards to host pages, counted from the start of the file."""
    to_file = region.file_offset - region.gpa
    page = region.page_bytes
    begin = ((starts << BALLOON_PAGE_SHIFT) + to_file + page - 1) // page * page
    end = ((stops << BALLOON_PAGE_SHIFT) + to_file) // page * page
    whole = end > begin
    offsets = begin[whole] - region.file_offset
    return Ranges(index, offsets, (end - begin)[whole])
