"""CRC-32 of pages, each by itself, so that a page that is wrong can be named.

Against what was lost on the way or never sent; not against somebody who means harm.
Source: zlib.crc32.  Units: balloon pages of 4 KiB.
"""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["CHECKSUM", "checksums_of", "differing", "named"]

#: One of them in a stream.
CHECKSUM: Final = np.dtype("<u4")
#: Of pages that were lost; enough to see where they are.
_NAMED: Final = 4


def checksums_of(pages: memoryview) -> NDArray[np.uint32]:
    """Of each whole page of a buffer; u32."""
    starts = range(0, len(pages), BALLOON_PAGE_BYTES)
    return np.array([zlib.crc32(pages[at : at + BALLOON_PAGE_BYTES]) for at in starts], CHECKSUM)


def differing(pages: memoryview, checksums: memoryview) -> NDArray[np.bool_]:
    """Which pages are not those that somebody has made the checksums of; one for each."""
    return np.not_equal(checksums_of(pages), np.frombuffer(checksums, CHECKSUM)).astype(np.bool_)


def named(pfns: NDArray[np.uint64]) -> str:
    """The first of some pages, for people."""
    names = ", ".join(f"{pfn:#x}" for pfn in pfns[:_NAMED].tolist())
    return names + (f" and {pfns.size - _NAMED} more" if pfns.size > _NAMED else "")
