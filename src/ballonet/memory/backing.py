"""What a descriptor of guest memory allows: its page size, and whether it may be written.

Not here: mapping it (mapping.py), freeing it (discard.py).
Units: bytes.  Source: fstatfs(2), fcntl(2) "File sealing", memfd_create(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from typing import Final

__all__ = ["can_shrink", "file_page_bytes", "is_on_disk", "write_obstacle"]

_HUGETLBFS_MAGIC: Final = 0x958458F6
_TMPFS_MAGIC: Final = 0x01021994
_RAMFS_MAGIC: Final = 0x858458F6
_SEAL_FUTURE_WRITE: Final = 0x10  # has no name in Python before 3.13

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)


def file_page_bytes(fd: int) -> int:
    """Size of the pages a file's memory comes in: the huge page of a hugetlb file, else the host's.

    Raises: OSError.
    """
    kind, block_bytes = _file_system(fd)
    return block_bytes if kind == _HUGETLBFS_MAGIC else mmap.PAGESIZE


def is_on_disk(fd: int) -> bool:
    """Whether a file's contents have another place than memory. Raises: OSError."""
    return _file_system(fd)[0] not in {_TMPFS_MAGIC, _RAMFS_MAGIC, _HUGETLBFS_MAGIC}


def write_obstacle(fd: int) -> str | None:
    """Why memory of this file cannot be written or freed, or None if it can.

    Raises: OSError.
    """
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return "its descriptor is read-only"
    if _seals(fd) & (fcntl.F_SEAL_WRITE | _SEAL_FUTURE_WRITE):
        return "its file is sealed against writing"
    return None


def can_shrink(fd: int) -> bool:
    """Whether somebody may cut the file short. Raises: OSError."""
    return not _seals(fd) & fcntl.F_SEAL_SHRINK


def _file_system(fd: int) -> tuple[int, int]:
    """Its kind, and the size of its blocks. Raises: OSError."""
    result = (ctypes.c_int64 * 32)()  # struct statfs is 120 bytes; type and block size come first
    if _libc.fstatfs(fd, ctypes.byref(result)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result[0], result[1]


def _seals(fd: int) -> int:
    """Seals of a file; 0 for a file that cannot have any. Raises: OSError."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0
