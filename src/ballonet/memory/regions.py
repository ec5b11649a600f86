"""Guest memory as a table of regions: which addresses exist, and where they lie in their files.

Pure arithmetic; mapping.py holds the memory itself.
Units: bytes everywhere.  Source: vhost-user "Memory regions description".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ballonet.errors import GuestMemoryError, SessionError

__all__ = ["REGIONS_MAX", "Region", "RegionTable"]

#: What KVM gave for long, and QEMU's own limit for vhost-user with configurable slots.
REGIONS_MAX: Final = 509


@dataclass(frozen=True, slots=True)
class Region:
    """One piece of guest memory given to us."""

    gpa: int
    size: int
    uva: int  #: address in the front-end's own process; rings are named by it
    file_offset: int
    page_bytes: int = 4096  #: host page: what a discard must consist of


class RegionTable:
    """Regions in order of address, none overlapping another.

    Raises: SessionError, if they overlap, are empty, overflow, or are too many.
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        if len(regions) > REGIONS_MAX:
            raise SessionError("memory table", f"{len(regions)} regions, at most {REGIONS_MAX}")
        for region in regions:
            _check_extent(region)
        self.regions: Final = tuple(sorted(regions, key=lambda region: region.gpa))
        self._gpas = [region.gpa for region in self.regions]
        by_uva = sorted(range(len(self.regions)), key=lambda i: self.regions[i].uva)
        self._uva_order = by_uva
        self._uvas = [self.regions[i].uva for i in by_uva]
        _check_apart("guest", self._gpas, [r.size for r in self.regions])
        _check_apart("user", self._uvas, [self.regions[i].size for i in by_uva])

    def find(self, gpa: int, length: int) -> tuple[int, int]:
        """Region index and offset of a range of guest-physical addresses.

        Raises: GuestMemoryError, unless both ends lie in one region.
        """
        index = bisect_right(self._gpas, gpa) - 1
        if index < 0 or gpa + length > self._gpas[index] + self.regions[index].size:
            raise GuestMemoryError(gpa, length)
        return index, gpa - self._gpas[index]

    def find_uva(self, uva: int, length: int) -> tuple[int, int]:
        """Region index and offset of a range of the front-end's own addresses.

        Raises: GuestMemoryError, unless both ends lie in one region.
        """
        place = bisect_right(self._uvas, uva) - 1
        if (
            place < 0
            or uva + length > self._uvas[place] + self.regions[self._uva_order[place]].size
        ):
            raise GuestMemoryError(uva, length)
        return self._uva_order[place], uva - self._uvas[place]


def _check_extent(region: Region) -> None:
    if region.size == 0:
        raise SessionError("memory table", f"region at {region.gpa:#x} is empty")
    for name, start, bits in (("guest", region.gpa, 63), ("user", region.uva, 64)):
        if start + region.size > 1 << bits:
            raise SessionError(
                "memory table", f"{name} address {start:#x} + {region.size} overflows"
            )
    if region.file_offset + region.size >= 1 << 63:
        raise SessionError("memory table", f"file offset {region.file_offset} overflows")


def _check_apart(name: str, starts: Sequence[int], sizes: Sequence[int]) -> None:
    for (start, size), (following, _) in pairwise(zip(starts, sizes, strict=True)):
        if start + size > following:
            raise SessionError(
                "memory table", f"{name} regions at {start:#x} and {following:#x} overlap"
            )
