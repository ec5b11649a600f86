"""What is held and what waits of one region's host pages.

Units: host pages and 4 KiB parts, both counted from the start of the host page that the region
begins in; what comes in and goes out is page numbers of the guest and byte ranges of the region.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.balloon.held_parts import HeldParts
from ballonet.balloon.page_set import PageSet
from ballonet.memory.regions import Region
from ballonet.memory.runs import Int64s, Ranges, distinct
from ballonet.units import BALLOON_PAGE_BYTES, BALLOON_PAGE_SHIFT

__all__ = ["BLOCK_BYTES", "RegionPages"]

#: Of one step: about a millisecond of the kernel's work, and just one huge page.
BLOCK_BYTES: Final = 2 << 20

_NONE: Final = np.empty(0, np.int64)


class RegionPages:
    """One region's part of the ledger."""

    def __init__(self, index: int, region: Region) -> None:
        self._index, self._region = index, region
        self._page = region.page_bytes
        self._lead = region.file_offset % self._page
        self._base = region.file_offset // self._page
        self._block = max(1, BLOCK_BYTES // self._page)
        self._held = self._make_held(region)
        self._next = PageSet()
        self._dropping = PageSet()

    @property
    def combines_messages(self) -> bool:
        """Host pages are put together from the parts of many messages."""
        return self._held is not None

    @property
    def waiting_bytes(self) -> int:
        """Bytes of host pages that wait."""
        return (len(self._next) + len(self._dropping)) * self._page

    @property
    def dropping_bytes(self) -> int:
        """Bytes of those that wait since before `begin_dropping`."""
        return len(self._dropping) * self._page

    def hold(self, pfns: NDArray[np.unsignedinteger]) -> Ranges:
        """Note parts as held; returns every host page among theirs that is whole now."""
        if self._held is None:
            return self._ranges(_NONE, _NONE)
        whole = self._held.add(distinct(self._parts(pfns)))
        if not whole.size:
            return self._ranges(whole, whole)
        breaks = np.flatnonzero(whole[1:] - whole[:-1] > 1) + 1
        firsts = whole[np.concatenate(([0], breaks))]
        return self._ranges(firsts, whole[np.concatenate((breaks, [whole.size])) - 1] + 1)

    def let_wait(self, ranges: Ranges) -> None:
        """Let whole host pages of this region wait to be dropped."""
        firsts = (ranges.offsets + self._lead) // self._page
        pages = _each_page(firsts, ranges.lengths // self._page)
        self._next.add(self._dropping.without(pages))

    def take_back(self, pfns: NDArray[np.unsignedinteger]) -> None:
        """Forget these balloon pages, and every host page that one of them lies in."""
        if self._held is not None:
            self._held.discard(distinct(self._parts(pfns)))
        if not self.waiting_bytes:
            return
        offsets = (pfns.astype(np.int64) << BALLOON_PAGE_SHIFT) - self._region.gpa
        size = self._region.size
        offsets = offsets[(offsets > -BALLOON_PAGE_BYTES) & (offsets < size)]
        # A balloon page may lie in two host pages, if their borders differ.
        ends = np.minimum(offsets + (BALLOON_PAGE_BYTES - 1), size - 1)
        places = np.concatenate((np.maximum(offsets, 0), ends))
        pages = distinct((places + self._lead) // self._page)
        self._next.discard(pages)
        self._dropping.discard(pages)

    def begin_dropping(self) -> None:
        """What waits now is dropped before what will wait later."""
        self._next, self._dropping = self._dropping, self._next

    def take_lowest(self) -> Ranges:
        """The lowest ranges that are to be dropped, up to one step; they wait no more."""
        return self._ranges(*self._dropping.take_lowest(self._block, self._base))

    def _ranges(self, firsts: Int64s, ends: Int64s) -> Ranges:
        offsets = firsts * self._page - self._lead
        return Ranges(self._index, offsets, (ends - firsts) * self._page)

    def _make_held(self, region: Region) -> HeldParts | None:
        """Nothing for small pages, nor where balloon pages and host pages do not share borders."""
        borders = (region.gpa, region.file_offset, self._page)
        if self._page == BALLOON_PAGE_BYTES or any(at % BALLOON_PAGE_BYTES for at in borders):
            return None
        host_pages = -(-(self._lead + region.size) // self._page)
        return HeldParts(host_pages, self._page // BALLOON_PAGE_BYTES)

    def _parts(self, pfns: NDArray[np.unsignedinteger]) -> Int64s:
        """Which parts of this region the page numbers name."""
        parts = pfns.astype(np.int64) - (self._region.gpa >> BALLOON_PAGE_SHIFT)
        inside = (parts >= 0) & (parts < self._region.size >> BALLOON_PAGE_SHIFT)
        return parts[inside] + (self._lead >> BALLOON_PAGE_SHIFT)


def _each_page(firsts: Int64s, counts: Int64s) -> Int64s:
    """Every page of ranges that ascend and do not touch."""
    if firsts.size == 1:
        return np.arange(firsts[0], firsts[0] + counts[0])
    ends = np.cumsum(counts)
    if ends[-1] == firsts.size:
        return firsts
    pages: Int64s = np.repeat(firsts - (ends - counts), counts)
    return pages + np.arange(pages.size)
