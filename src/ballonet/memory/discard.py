"""Dropping host memory behind a range, by kind of memory.

    shared file, memfd, hugetlb   punch a hole in the file: frees the page for every mapping of it
    shared anonymous              MADV_REMOVE on our mapping: there is no file to punch
    private anonymous             MADV_DONTNEED on our mapping

MADV_DONTNEED on a shared mapping only forgets our own page tables: it frees nothing.

Many ranges go in one process_madvise where the kernel takes it for its own caller's memory (Linux
6.14), at half the time of a call for each: `discards_in_one_call` tries it out, once.
A private mapping of a file is no kind of memory here: nothing ever makes one, because punching a
hole under it would change the file for everyone else.
Source: fallocate(2), madvise(2), process_madvise(2); QEMU ram_block_discard_range.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from enum import Enum, auto
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "VECTOR_MAX",
    "MemoryKind",
    "address_of",
    "discards_in_one_call",
    "madvise_range",
    "madvise_ranges",
    "punch_hole",
]

_KEEP_SIZE, _PUNCH_HOLE = 1, 2

#: Ranges of one call (UIO_MAXIOV).
VECTOR_MAX: Final = 1024
_PROCESS_MADVISE: Final = 440  # the same on every architecture
#: This process, without a descriptor that a child would inherit and mean its parent by.
_PIDFD_SELF: Final = -10000  # PIDFD_SELF_THREAD

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_syscall: Final = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_long,
    ctypes.c_ulong,
)
_syscall.restype = ctypes.c_long


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
    mapping.madvise(_advice(kind), offset, length)


def madvise_ranges(
    kind: MemoryKind, addresses: NDArray[np.int64], lengths: NDArray[np.int64]
) -> int:
    """Free ranges of this process's own mappings, in order; returns how many bytes were freed.

    At most VECTOR_MAX ranges, in bytes.  Fewer bytes than asked for: the kernel stopped there, and
    only a call for the next range alone tells why.  The interpreter lock is released meanwhile.
    """
    vector = np.empty((addresses.size, 2), np.uint64)
    vector[:, 0], vector[:, 1] = addresses, lengths
    done = _syscall(
        _PROCESS_MADVISE, _PIDFD_SELF, vector.ctypes.data, len(vector), _advice(kind), 0
    )
    return max(0, int(done))


@cache
def discards_in_one_call() -> bool:
    """Whether `madvise_ranges` frees memory here, tried on a file of two pages."""
    size = 2 * mmap.PAGESIZE
    fd = os.memfd_create("ballonet-probe", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        with mmap.mmap(fd, size) as mapping:
            mapping[:] = b"x" * size
            address = np.array([address_of(mapping)])
            done = madvise_ranges(MemoryKind.SHARED_FILE, address, np.array([size]))
            return done == size and os.fstat(fd).st_blocks == 0
    finally:
        os.close(fd)


def address_of(mapping: mmap.mmap) -> int:
    """Where a mapping begins in this process."""
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


def _advice(kind: MemoryKind) -> int:
    return mmap.MADV_DONTNEED if kind is MemoryKind.PRIVATE_ANONYMOUS else mmap.MADV_REMOVE
