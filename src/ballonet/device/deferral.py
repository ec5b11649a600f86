"""Discards put off: pages of the balloon that the host will drop a little later, many at a time.

With MUST_TELL_HOST a page belongs to the device from its inflate until its deflate is answered, so
an inflate may be answered at once and the page dropped behind the guest's back, together with its
neighbours.  A deflate takes its pages off the list before it is answered; nothing of a page that
the guest may have again is ever on it.  What waits is bounded in bytes and in age.

Theory of operation.  Messages are kept as they came until there are many, or until anything else
is to happen; then whoever knows what they mean sorts them, all in one go.  One bit for each host
page of a region says "waits".  Work begins when the guest pauses, when the oldest page has waited
long enough, or when too much waits; then it goes on until nothing waits, in steps small enough not
to keep the guest's next message waiting.  Dropping what is whole while the guest is busy was
measured to cost the guest more than it gains.
Cost: one byte for each host page of a region in which something waits.
Source: VIRTIO 1.4 5.5.6: with MUST_TELL_HOST a page may be changed until its deflate is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.device.clock import Clock
from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import Int64s, Ranges, distinct
from ballonet.units import BALLOON_PAGE_SHIFT

__all__ = ["Deferral"]

#: The guest has paused if it gave and took nothing for so long.
QUIET_NS: Final = 1_000_000
#: However busy the guest is, work begins when the oldest page has waited so long,
AGE_NS_MAX: Final = 1_000_000_000
#: or when so much waits.
WAITING_BYTES_MAX: Final = 1 << 30
#: Of one step: about a millisecond of the kernel's work, and just one huge page.
STEP_BYTES: Final = 2 << 20
_STEP_RANGES: Final = 256
#: Sorted at once, this much costs little for each page; more would keep the guest waiting.
_UNSORTED_PAGES_MAX: Final = 1 << 14
_UNSORTED_MESSAGES_MAX: Final = 64
_LOOK_PAGES: Final = 1 << 10


class Deferral:
    """Pages of one device that wait to be dropped."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.table = RegionTable([])  #: what the pages that wait lie in
        self._unsorted: list[NDArray[np.unsignedinteger]] = []
        self._unsorted_pages = 0
        self._regions: dict[int, _WaitingPages] = {}
        self.waiting_bytes = 0
        self.steps = 0
        self._oldest_ns = self._heard_ns = 0
        self._is_late = False  # too much waits, or for too long: until nothing does

    @property
    def deadline_ns(self) -> int | None:
        """When work should begin; None: nothing waits."""
        if not self.waiting_bytes and not self._unsorted:
            return None
        if self._is_late:
            return 0
        return min(self._heard_ns + QUIET_NS, self._oldest_ns + AGE_NS_MAX)

    @property
    def is_due(self) -> bool:
        """Work should begin now."""
        deadline_ns = self.deadline_ns
        return deadline_ns is not None and self._clock.now_ns() >= deadline_ns

    @property
    def wants_sorting(self) -> bool:
        """So much is unsorted that it is time."""
        return (
            self._unsorted_pages >= _UNSORTED_PAGES_MAX
            or len(self._unsorted) >= _UNSORTED_MESSAGES_MAX
        )

    def put(self, pfns: NDArray[np.unsignedinteger], table: RegionTable) -> None:
        """Keep the page numbers of a message, unsorted."""
        if table is not self.table:
            self.cancel()
            self.table = table
        self._heard_ns = self._clock.now_ns()
        if not self.waiting_bytes and not self._unsorted:
            self._oldest_ns = self._heard_ns
        self._unsorted.append(pfns)
        self._unsorted_pages += pfns.size

    def pull(self) -> NDArray[np.unsignedinteger] | None:
        """Take all page numbers that are unsorted, to be given now; None: there are none.

        To be called before `take`, `step` and `drain`.
        """
        if not self._unsorted:
            return None
        pfns, self._unsorted, self._unsorted_pages = np.concatenate(self._unsorted), [], 0
        return pfns

    def give(self, found: Iterable[Ranges]) -> None:
        """Put whole host pages on the list."""
        for ranges in found:
            waiting = self._regions.get(ranges.region)
            if waiting is None:
                region = self.table.regions[ranges.region]
                waiting = self._regions[ranges.region] = _WaitingPages(region)
            self.waiting_bytes += waiting.give(ranges)
        if self._heard_ns >= self._oldest_ns + AGE_NS_MAX:
            self._is_late = True
        if self.waiting_bytes >= WAITING_BYTES_MAX:
            self._is_late = True
        self._is_late &= self.waiting_bytes > 0

    def take(self, pfns: NDArray[np.unsignedinteger]) -> None:
        """Take pages off, because the guest is about to have them again."""
        if self.waiting_bytes:
            self._heard_ns = self._clock.now_ns()
            for waiting in self._regions.values():
                self.waiting_bytes -= waiting.take(pfns)
            self._is_late &= self.waiting_bytes > 0

    def hurry(self) -> None:
        """Let work begin now, and go on until nothing waits."""
        self._is_late = self.waiting_bytes > 0 or bool(self._unsorted)

    def step(self) -> Ranges | None:
        """Ranges to drop now, taken off the list; None if nothing waits."""
        for index, waiting in self._regions.items():
            ranges = waiting.lowest(index)
            if ranges is not None:
                self._note_taken(ranges)
                return ranges
        return None

    def drain(self) -> Iterator[Ranges]:
        """Everything that waits."""
        while (ranges := self.step()) is not None:
            yield ranges

    def cancel(self) -> None:
        """Forget everything: the guest may have all its pages again."""
        self._regions.clear()
        self._unsorted, self._unsorted_pages = [], 0
        self.table = RegionTable([])
        self.waiting_bytes = 0
        self._is_late = False

    def _note_taken(self, ranges: Ranges) -> None:
        self.waiting_bytes -= ranges.total_bytes
        self.steps += 1
        if not self.waiting_bytes:
            self._is_late = False
            self._regions = {}  # an idle device needs no memory for this


class _WaitingPages:
    """The host pages of one region, counted from the start of its file."""

    def __init__(self, region: Region) -> None:
        self._page = region.page_bytes
        self._lead = region.file_offset % self._page
        self._base = region.file_offset // self._page
        self._block = max(1, STEP_BYTES // self._page)
        self._gpa, self._size = region.gpa, region.size
        count = -(-(self._lead + region.size) // self._page)
        self._waits: NDArray[np.bool_] = np.zeros(count, np.bool_)
        self._at = 0  # nothing waits below

    def give(self, ranges: Ranges) -> int:
        """Note ranges; returns the bytes that did not wait before."""
        firsts = (ranges.offsets + self._lead) // self._page
        if firsts.size == 1:
            return self._give_one(int(firsts[0]), int(ranges.lengths[0]) // self._page)
        pages = _each_page(firsts, ranges.lengths // self._page)
        fresh = pages[~self._waits[pages]]
        if fresh.size:
            self._waits[fresh] = True
            self._at = min(self._at, int(fresh[0]))
        return fresh.size * self._page

    def _give_one(self, first: int, count: int) -> int:
        """The same for one range, at a fraction of the cost."""
        part = self._waits[first : first + count]
        fresh = count - int(np.count_nonzero(part))
        part[:] = True
        self._at = min(self._at, first)
        return fresh * self._page

    def take(self, pfns: NDArray[np.unsignedinteger]) -> int:
        """Forget the host pages that any of these lies in; returns their bytes."""
        offsets = (pfns.astype(np.int64) << BALLOON_PAGE_SHIFT) - self._gpa
        offsets = offsets[(offsets > -(1 << BALLOON_PAGE_SHIFT)) & (offsets < self._size)]
        # A balloon page may lie in two host pages, if their borders differ.
        ends = np.minimum(offsets + (1 << BALLOON_PAGE_SHIFT) - 1, self._size - 1)
        places = np.concatenate((np.maximum(offsets, 0), ends))
        pages = (places + self._lead) // self._page
        waited = distinct(pages[self._waits[pages]])
        self._waits[waited] = False
        return waited.size * self._page

    def lowest(self, index: int) -> Ranges | None:
        """The lowest ranges that wait, up to one step; they wait no more."""
        rest = self._waits[self._at :]
        skipped = int(rest.argmax()) if rest.size else 0
        if not rest.size or not rest[skipped]:
            self._at = self._waits.size
            return None
        self._at += skipped
        border = self._at + self._block - (self._at + self._base) % self._block
        if self._waits[self._at : border].all():
            return self._take_one(index, min(border, self._waits.size))
        window = self._waits[self._at : self._at + _LOOK_PAGES]
        edges = np.flatnonzero(window[1:] != window[:-1]) + (self._at + 1)
        firsts, ends = np.concatenate(([self._at], edges[1::2])), edges[::2]
        if ends.size < firsts.size:
            ends = np.concatenate((ends, [self._at + window.size]))
        return self._cut(index, firsts, ends)

    def _take_one(self, index: int, end: int) -> Ranges:
        """What waits up to `end`, without a gap."""
        first, self._at = self._at, end
        self._waits[first:end] = False
        offset, length = first * self._page - self._lead, (end - first) * self._page
        return Ranges(index, np.array([offset]), np.array([length]))

    def _cut(self, index: int, firsts: Int64s, ends: Int64s) -> Ranges:
        firsts, ends = firsts[:_STEP_RANGES], ends[:_STEP_RANGES]
        total = np.cumsum(ends - firsts)
        last = int(np.searchsorted(total, self._block))
        if last < firsts.size:
            excess = int(total[last]) - self._block
            firsts, ends = firsts[: last + 1], ends[: last + 1].copy()
            ends[last] -= excess
        if self._waits[int(ends[-1]) : int(ends[-1]) + 1].any():
            # It goes on there: cut at the border of a huge page, if there is one.
            border = (int(ends[-1]) + self._base) // self._block * self._block - self._base
            ends[-1] = border if border > firsts[-1] else ends[-1]
        self._at = int(ends[-1])
        self._waits[int(firsts[0]) : self._at] = False
        return Ranges(index, firsts * self._page - self._lead, (ends - firsts) * self._page)


def _each_page(firsts: Int64s, counts: Int64s) -> Int64s:
    """Every page of ranges that do not touch."""
    ends = np.cumsum(counts)
    if ends[-1] == firsts.size:
        return firsts
    pages: Int64s = np.repeat(firsts - (ends - counts), counts)
    return pages + np.arange(pages.size)
