"""Dropping host memory behind a range, by kind of memory.

A file, memfd or hugetlb gets a hole, which frees the page for every mapping of it; other memory is
freed by advice on our mapping.  MADV_DONTNEED on a shared mapping only forgets our own page
tables: it frees nothing.

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
from enum import Enum
from functools import cache
from typing import Final, NamedTuple

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
_NORESERVE: Final = 0x4000  # MAP_NORESERVE of x86 and Arm; Python 3.11 has no name for it

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


class KindRow(NamedTuple):
    """One kind of memory."""

    name: str
    flags: int  #: of mmap(2)
    advice: int  #: of madvise(2), that frees it where no hole can be punched


class MemoryKind(Enum):
    """What stands behind a region; a row each."""

    # Without MAP_NORESERVE the kernel would set huge pages aside again for every hole in the file,
    # each time it is mapped: they would be free for nobody.  Other memory is not affected.
    SHARED_FILE = KindRow("file", mmap.MAP_SHARED | _NORESERVE, mmap.MADV_REMOVE)
    SHARED_ANONYMOUS = KindRow(
        "shared anonymous", mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, mmap.MADV_REMOVE
    )
    PRIVATE_ANONYMOUS = KindRow(
        "private anonymous", mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.MADV_DONTNEED
    )


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
    mapping.madvise(kind.value.advice, offset, length)


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
        _PROCESS_MADVISE, _PIDFD_SELF, vector.ctypes.data, len(vector), kind.value.advice, 0
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
