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

__all__ = ["CHECKSUM", "checksums_of"]

#: One of them in a stream.
CHECKSUM: Final = np.dtype("<u4")


def checksums_of(pages: memoryview) -> NDArray[np.uint32]:
    """Of each whole page of a buffer; u32."""
    starts = range(0, len(pages), BALLOON_PAGE_BYTES)
    return np.array([zlib.crc32(pages[at : at + BALLOON_PAGE_BYTES]) for at in starts], CHECKSUM)
