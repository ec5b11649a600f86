"""Host pages bigger than a balloon page, of which a balloon may hold only a part.

A host page can be dropped only whole, while drivers give balloon pages in messages of 256: half a
2 MiB page.  One bit says that a part is in the balloon, and a count for each host page how many
are.  Bits and counts of memory that was never given are never touched, so the kernel keeps nothing
for them.
Units: 4 KiB parts, and host pages, both counted from the start of the host page that the region
begins in.
Source: QEMU keeps parts within one message only (virtio_balloon_pbp).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.memory.runs import Int64s, distinct

__all__ = ["HeldParts"]

_BITS: Final = np.array([1, 2, 4, 8, 16, 32, 64, 128], np.uint8)


class HeldParts:
    """The parts of one region's host pages that are in the balloon."""

    def __init__(self, host_pages: int, parts_per_page: int) -> None:
        self._parts_per_page = parts_per_page
        self._bits: NDArray[np.uint8] = np.zeros(-(-host_pages * parts_per_page // 8), np.uint8)
        kind = np.min_scalar_type(parts_per_page)  # a guest of 1 TiB has 16 million pages of 64 KiB
        self._counts: NDArray[np.unsignedinteger] = np.zeros(host_pages, kind)

    def add(self, parts: Int64s) -> Int64s:
        """Take in ascending parts; returns the host pages among theirs that are whole now."""
        fresh = parts[~self._are_held(parts)]
        np.bitwise_or.at(self._bits, fresh >> 3, _bit(fresh))
        np.add.at(self._counts, fresh // self._parts_per_page, 1)
        pages = distinct(parts // self._parts_per_page)
        whole: Int64s = pages[self._counts[pages] == self._parts_per_page]
        return whole

    def discard(self, parts: Int64s) -> None:
        """Leave out ascending parts, as far as they are here."""
        held = parts[self._are_held(parts)]
        np.bitwise_and.at(self._bits, held >> 3, ~_bit(held))
        np.subtract.at(self._counts, held // self._parts_per_page, 1)

    def _are_held(self, parts: Int64s) -> NDArray[np.bool_]:
        held: NDArray[np.bool_] = (self._bits[parts >> 3] & _bit(parts)) != 0
        return held


def _bit(parts: Int64s) -> NDArray[np.uint8]:
    bits: NDArray[np.uint8] = _BITS[parts & 7]
    return bits
