"""Dropping host memory behind a range, by kind of memory.

    shared file, memfd, hugetlb   punch a hole in the file: frees the page for every mapping of it
    shared anonymous              MADV_REMOVE on our mapping: there is no file to punch
    private anonymous             MADV_DONTNEED on our mapping

MADV_DONTNEED on a shared mapping only forgets our own page tables: it frees nothing.
A private mapping of a file is no kind of memory here: nothing ever makes one, because punching a
hole under it would change the file for everyone else.
Source: fallocate(2), madvise(2); QEMU ram_block_discard_range.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from enum import Enum, auto
from typing import Final

__all__ = ["MemoryKind", "madvise_range", "punch_hole"]

_KEEP_SIZE, _PUNCH_HOLE = 1, 2

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class MemoryKind(Enum):
    """What stands behind a region, as far as freeing it is concerned."""

    SHARED_FILE = auto()
    SHARED_ANONYMOUS = auto()
    PRIVATE_ANONYMOUS = auto()


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Free a range of a file, given in bytes; it reads as zero afterwards.

    Raises: OSError.  The interpreter lock is released meanwhile.
    """
    while _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def madvise_range(mapping: mmap.mmap, kind: MemoryKind, offset: int, length: int) -> None:
    """Free a range of a mapping, given in bytes; a shared one is freed for everyone who maps it.

    Raises: OSError.
    """
    advice = mmap.MADV_DONTNEED if kind is MemoryKind.PRIVATE_ANONYMOUS else mmap.MADV_REMOVE
    mapping.madvise(advice, offset, length)
