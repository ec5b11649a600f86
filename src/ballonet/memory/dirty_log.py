"""The dirty log a front-end shares for a migration: one bit for each 4 KiB page written by us.

Other processes set bits in the same words, so a bit is set by an atomic instruction.  Python has
none, but the kernel does: FUTEX_WAKE_OP applies `|=` to a word of shared memory atomically.
Source: QEMU docs/interop/vhost-user.rst "Migration"; futex(2).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

from ballonet.errors import MapError

__all__ = ["DirtyLog"]

_SYS_FUTEX: Final = {"x86_64": 202, "aarch64": 98}.get(os.uname().machine)
_FUTEX_WAKE_OP = 5
_OP_OR, _OP_ARG_SHIFT = 2, 8

#: One bit for each page of 128 TiB, which is more than a process can map of a guest.
_BYTES_MAX: Final = 4 << 30

_libc: Final = ctypes.CDLL(None, use_errno=True)


class DirtyLog:
    """A mapped log."""

    def __init__(self, fd: int, size: int, offset: int) -> None:
        """Map `size` bytes of the file. Raises: MapError."""
        if _SYS_FUTEX is None:
            raise MapError("mapping", "the dirty log", "no futex call is known for this processor")
        if not 0 < size <= _BYTES_MAX:  # 0 would map the whole file
            raise MapError("mapping", "the dirty log", f"{size} bytes, expected 1 to {_BYTES_MAX}")
        try:
            self._mapping = mmap.mmap(fd, size, offset=offset)
        except (OSError, ValueError, OverflowError) as error:
            raise MapError("mapping", "the dirty log", str(error)) from error
        self._base = (ctypes.c_char * 1).from_buffer(self._mapping)
        self._size = size

    def mark(self, gpa: int, length: int) -> None:
        """Mark every page of a range; pages the log does not cover are left out."""
        last = min((gpa + length - 1) >> 12, self._size * 8 - 1)
        for page in range(gpa >> 12, last + 1):
            self._set_bit(page)

    def _set_bit(self, page: int) -> None:
        word = ctypes.addressof(self._base) + page // 32 * 4
        operation = (_OP_OR | _OP_ARG_SHIFT) << 28 | (page % 32) << 12
        _libc.syscall(
            ctypes.c_long(_SYS_FUTEX or 0),
            ctypes.c_void_p(word),
            ctypes.c_int(_FUTEX_WAKE_OP),
            ctypes.c_int(0),
            ctypes.c_void_p(0),
            ctypes.c_void_p(word),
            ctypes.c_uint32(operation),
        )

    def close(self) -> None:
        """Unmap."""
        del self._base
        self._mapping.close()
