"""Which pages of a file hold something, found without touching any of them.

A look through a mapping would fill the holes, and so take back what a balloon gave.
Source: lseek(2) SEEK_DATA, SEEK_HOLE.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ballonet.units import BALLOON_PAGE_BYTES, bytes_to_pages, pages_to_bytes

__all__ = ["held_pages"]


def held_pages(fd: int, pages: int, offset: int = 0) -> NDArray[np.bool_]:
    """For each of so many pages from `offset` on whether any of it is data.

    A file system that keeps no books of holes calls everything data.  Moves the position of `fd`.
    Units: balloon pages; `offset` in bytes, a whole page.  Raises: OSError.
    """
    held = np.zeros(pages, np.bool_)
    for start, end in _data(fd, offset, offset + pages_to_bytes(pages)):
        first, beyond = start - offset, end - offset + BALLOON_PAGE_BYTES - 1
        held[bytes_to_pages(first) : bytes_to_pages(beyond)] = True
    return held


def _data(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where data begins and ends. Raises: OSError."""
    while start < end:
        try:
            first = os.lseek(fd, start, os.SEEK_DATA)
            start = os.lseek(fd, first, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data behind, or the file was cut short just now
                raise
            return
        if first < end:
            yield first, min(start, end)
