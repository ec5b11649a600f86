"""What host and guest said to each other, worked out anew: whose each page can be.

Shares no code with either: messages are read with `struct`, pages are kept in sets.  A page is the
host's from the balloon response that names it, once the host has heard it, until an unballoon
request that names it stands in the ring.
"""

from __future__ import annotations

import struct

from ballonet.memory.regions import RegionTable
from ballonet.memory.runs import Ranges

PAGE = 4096


class Wire:
    """Everything that was said; `memory_pages`: no page behind them exists."""

    def __init__(self, table: RegionTable, memory_pages: int) -> None:
        self._table, self._memory_pages = table, memory_pages
        self.given: set[int] = set()  #: the guest has named them, and the host has heard it
        self.dropped: set[int] = set()  #: ever

    def host_heard(self, raw: bytes) -> None:
        """A message of the guest reached the host."""
        if len(raw) >= 16 and struct.unpack_from("<H", raw) == (7,):
            (word,) = struct.unpack_from("<I", raw, 12)
            self.given |= self._pages(raw, word >> 1)

    def host_said(self, raw: bytes) -> None:
        """A message of the host stands in the ring."""
        if struct.unpack_from("<H", raw) == (8,):
            (count,) = struct.unpack_from("<I", raw, 12)
            self.given -= self._pages(raw, count)

    def check_drop(self, ranges: Ranges) -> None:
        """Only what the guest has given may be dropped."""
        region = self._table.regions[ranges.region]
        for offset, length in zip(ranges.offsets.tolist(), ranges.lengths.tolist(), strict=True):
            assert 0 <= offset < offset + length <= region.size, "outside its region"
            first = (region.gpa + offset) // PAGE
            pages = set(range(first, first + length // PAGE))
            assert pages <= self.given, f"pages {sorted(pages - self.given)[:9]} are the guest's"
            self.dropped |= pages

    def _pages(self, raw: bytes, count: int) -> set[int]:
        """Pages of memory in so many ranges, as far as they are there."""
        found: set[int] = set()
        for i in range(min(count, (len(raw) - 16) // 8)):
            (word,) = struct.unpack_from("<Q", raw, 16 + 8 * i)
            first, pages = word & (1 << 40) - 1, word >> 40
            found |= set(range(first, min(first + pages, self._memory_pages)))
        return found
