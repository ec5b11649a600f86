"""Holes of a memory file: what was never written, or was given back to the host.

A look through a mapping would fill them, so they are asked for.  Source: lseek(2) SEEK_DATA.
"""

from __future__ import annotations

import errno
import os

import numpy as np

from ballonet.errors import SystemCallError
from ballonet.memory.runs import PageRuns
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["find_holes"]


def find_holes(fd: int, size: int) -> PageRuns:
    """Pages of a file of `size` bytes that are holes; whole pages, counted from its start.

    Costs two system calls a hole, nothing for its size.  Who may write meanwhile makes it a look at
    different moments.  A file system that knows no holes, as that of huge pages, has none.  Moves
    the descriptor's position.  Raises: SystemCallError.
    """
    begins: list[int] = []
    ends: list[int] = []
    at = 0
    try:
        while at < size:
            begin = os.lseek(fd, at, os.SEEK_HOLE)
            if begin >= size:
                break
            at = min(_next_data(fd, begin, size), size)
            begins.append(begin)
            ends.append(at)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SystemCallError("finding holes in", "guest memory", reason) from error
    first = -(-np.array(begins, np.int64) // BALLOON_PAGE_BYTES)
    stop = np.array(ends, np.int64) // BALLOON_PAGE_BYTES
    whole = stop > first
    return PageRuns(first[whole], (stop - first)[whole])


def _next_data(fd: int, at: int, size: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # nothing but a hole up to the end
            raise
        return size
