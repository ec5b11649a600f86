"""Guest memory of which a lost page is seen: each page that is given away has contents of its own.

The low part is for rings and messages, the high part for the pages.
Units: bytes; `pfn` counts balloon pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from ballonet.errors import GuestMemoryError
from ballonet.memory.shared_file import SharedFile
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.ring.chain import Piece

__all__ = ["DATA_AT", "MarkedMemory"]

#: Where messages and rings end and the pages begin.
DATA_AT: Final = 16 << 20


class MarkedMemory:
    """The memory of one driver's session; nothing that was handed out comes back."""

    def __init__(self, file: SharedFile, first_gpa: int) -> None:
        """`first_gpa`: below is memory that no ring may lie in."""
        self.file: Final = file
        self._next_gpa = first_gpa
        self._next_page = DATA_AT

    def allocate(self, size: int, align: int = 64) -> int:
        """Address of fresh bytes in the low part. Raises: GuestMemoryError."""
        gpa = -(-self._next_gpa // align) * align
        self._next_gpa = gpa + size
        if self._next_gpa > DATA_AT:
            raise GuestMemoryError(gpa, size)
        return gpa

    def pages(self, count: int, align: int = BALLOON_PAGE_BYTES) -> list[int]:
        """PFNs of fresh pages with contents."""
        gpa = -(-self._next_page // align) * align
        self._next_page = gpa + count * BALLOON_PAGE_BYTES
        first = gpa // BALLOON_PAGE_BYTES
        pfns = list(range(first, first + count))
        for pfn in pfns:
            self.write_page(pfn)
        return pfns

    def write_page(self, pfn: int, salt: int = 0) -> None:
        """Give a page contents that no other has."""
        self.write(pfn * BALLOON_PAGE_BYTES, _contents(pfn, salt))

    def kept(self, pfns: Iterable[int], salt: int = 0) -> list[int]:
        """Pages that still hold what was written to them."""
        return [pfn for pfn in pfns if self.read_page(pfn) == _contents(pfn, salt)]

    def emptied(self, pfns: Iterable[int]) -> list[int]:
        """Pages that read as zero."""
        return [pfn for pfn in pfns if not any(self.read_page(pfn))]

    def read_page(self, pfn: int) -> bytes:
        """What is in a page; a hole stays one."""
        return self.file.read(pfn * BALLOON_PAGE_BYTES, BALLOON_PAGE_BYTES)

    def write(self, gpa: int, data: bytes) -> None:
        """Store bytes."""
        self.file.view[gpa : gpa + len(data)] = data

    def view(self, gpa: int, length: int) -> memoryview:
        """A window on memory; for rings."""
        return self.file.view[gpa : gpa + length]

    def message(self, data: bytes) -> Piece:
        """Bytes put into memory, as a readable piece."""
        gpa = self.allocate(len(data))
        self.write(gpa, data)
        return gpa, len(data)

    def pfn_message(self, pfns: Sequence[int]) -> Piece:
        """Page numbers as a driver sends them."""
        return self.message(np.array(pfns, "<u4").tobytes())


def _contents(pfn: int, salt: int) -> bytes:
    return (pfn << 16 | salt << 8 | 1).to_bytes(8, "little") * (BALLOON_PAGE_BYTES // 8)
