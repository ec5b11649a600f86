"""Host pages bigger than a balloon page, given in parts.

A host page can be discarded only whole, while drivers give balloon pages in messages of 256: half
a 2 MiB page.  With MUST_TELL_HOST a given part stays given until the driver asks for it back, so
the parts of many messages may be put together; a part taken back is forgotten before the driver
is answered.  Without MUST_TELL_HOST a part may be in use again once its message is answered, and
nothing may be kept: "inflate A, deflate A, inflate B" would lose the guest's A.
Cost: one byte for each balloon page of regions with big pages.
Source: VIRTIO 1.4 5.5.6; QEMU keeps parts within one message only (virtio_balloon_pbp).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import Int64s, Ranges, distinct, merge_pfns
from ballonet.units import BALLOON_PAGE_BYTES, BALLOON_PAGE_SHIFT

__all__ = ["HostPageParts"]


class HostPageParts:
    """Which balloon pages of regions with big pages are in the balloon."""

    def __init__(self, table: RegionTable) -> None:
        self.table: Final = table
        self._regions = {
            index: _RegionParts(region)
            for index, region in enumerate(table.regions)
            if region.page_bytes > BALLOON_PAGE_BYTES and _is_regular(region)
        }

    def covers(self, region: int) -> bool:
        """Parts of this region are put together."""
        return region in self._regions

    def give(self, pfns: NDArray[np.unsignedinteger]) -> list[Ranges]:
        """Note parts as given; returns every host page touched that is whole now.

        `pfns` may come in any order and repeat; those of other regions are ignored.
        """
        found = []
        for index, parts in self._regions.items():
            ranges = parts.give(index, pfns)
            if ranges.offsets.size:
                found.append(ranges)
        return found

    def take(self, pfns: NDArray[np.unsignedinteger]) -> None:
        """Forget parts, because the driver is about to use them again."""
        for parts in self._regions.values():
            parts.take(pfns)


class _RegionParts:
    """The parts of one region; host pages are counted from the start of its file."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._page = region.page_bytes
        self._parts_per_page = self._page // BALLOON_PAGE_BYTES
        # Balloon pages from the start of the host page that the region begins in.
        self._lead = region.file_offset % self._page // BALLOON_PAGE_BYTES
        self._first_pfn = region.gpa >> BALLOON_PAGE_SHIFT
        self._pages = region.size >> BALLOON_PAGE_SHIFT
        host_pages = -(-(self._lead + self._pages) // self._parts_per_page)
        self._given: NDArray[np.bool_] = np.zeros((host_pages, self._parts_per_page), np.bool_)

    def give(self, index: int, pfns: NDArray[np.unsignedinteger]) -> Ranges:
        places = self._places(pfns)
        self._given.reshape(-1)[places] = True
        touched = distinct(places // self._parts_per_page)
        whole = merge_pfns(touched[self._given[touched].all(axis=1)].astype(np.uint64))
        lead_bytes = self._lead * BALLOON_PAGE_BYTES
        return Ranges(index, whole.first_pfns * self._page - lead_bytes, whole.pages * self._page)

    def take(self, pfns: NDArray[np.unsignedinteger]) -> None:
        self._given.reshape(-1)[self._places(pfns)] = False

    def _places(self, pfns: NDArray[np.unsignedinteger]) -> Int64s:
        offsets = pfns.astype(np.int64) - self._first_pfn
        return offsets[(offsets >= 0) & (offsets < self._pages)] + self._lead


def _is_regular(region: Region) -> bool:
    """Balloon pages and host pages share their borders."""
    return not (
        region.gpa % BALLOON_PAGE_BYTES
        or region.file_offset % BALLOON_PAGE_BYTES
        or region.page_bytes % BALLOON_PAGE_BYTES
    )
