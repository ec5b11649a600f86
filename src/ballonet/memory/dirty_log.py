"""The dirty log a front-end shares for a migration: one bit for each 4 KiB page written by us.

Other processes change bits of the same words, so bits are set and cleared by atomic instructions.
Python has none, but the kernel does: FUTEX_WAKE_OP applies `|=` or `&= ~` to a word in memory.

Theory of operation.  Whoever writes a page marks it after the write; whoever sends pages takes the
marks before it reads the pages.  Both operations on the word are atomic and full barriers.  Either
the mark comes after the clearing: then it stands, and the page is sent again.  Or it comes before:
then the write came before it, and is seen by the reading that follows.

A mark is made even where the bit stands already.  To look first would be right only with a full
barrier between the write and the look, because a processor may move a read before an earlier write:
the bit would be seen as it was before it was cleared, the page read as it was before the write, and
the write lost.  And a look at a file that its owner has cut short ends this process by SIGBUS,
where the kernel's own operation merely fails.  So nothing is saved there; what made a mark dear was
to put the call together, which is done once for each page.
Source: QEMU docs/interop/vhost-user.rst "Migration"; futex(2); Linux kernel/futex/waitwake.c
futex_atomic_op_inuser, whose atomic operations are full barriers.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import MapError
from ballonet.units import BALLOON_PAGE_BYTES, BALLOON_PAGE_SHIFT

__all__ = ["DirtyLog", "OwnDirtyLog"]

_SYS_FUTEX: Final = {"x86_64": 202, "aarch64": 98}.get(os.uname().machine)
#: Nobody waits at these words, so the cheaper kind of futex does, which is the process's own.
_FUTEX_WAKE_OP, _FUTEX_PRIVATE = 5, 128
#: Operations on the word; the argument is a bit's number.
_OR, _AND_NOT, _ARGUMENT_SHIFT = 2, 3, 8
_WORD_BITS: Final = 32

#: One bit for each page of 128 TiB, which is more than a process can map of a guest.
_BYTES_MAX: Final = 4 << 30
#: Calls that are kept; the rings of one device lie in a tenth as many pages.
_CALLS_MAX: Final = 1024

_libc: Final = ctypes.CDLL(None)


class DirtyLog:
    """A log that somebody else has made, mapped to mark pages in it."""

    def __init__(self, fd: int, size: int, offset: int) -> None:
        """Map `size` bytes of the file. Raises: MapError."""
        self._bits = _AtomicBits(fd, size, offset)
        self._marks: dict[int, Callable[[], object]] = {}

    def mark(self, gpa: int, length: int) -> None:
        """Mark every page of a range; pages the log does not cover are left out."""
        last = min((gpa + length - 1) >> BALLOON_PAGE_SHIFT, self._bits.count - 1)
        for page in range(gpa >> BALLOON_PAGE_SHIFT, last + 1):
            mark = self._marks.get(page)
            if mark is None:
                mark = self._keep(page)
            mark()

    def _keep(self, page: int) -> Callable[[], object]:
        """The call that marks a page; a front-end says which, so not all of them are kept."""
        if len(self._marks) >= _CALLS_MAX:
            self._marks.clear()
        made = self._marks[page] = self._bits.call(_OR, page)
        return made

    def close(self) -> None:
        """Unmap."""
        self._marks.clear()
        self._bits.close()


class OwnDirtyLog:
    """A log of ours, for whoever sends pages: devices are given its file, and mark in it.

    No device can cut the file short, which would end us at the next look.
    """

    def __init__(self, end_gpa: int) -> None:
        """Room for all pages below an address. Raises: MapError."""
        pages = end_gpa + BALLOON_PAGE_BYTES - 1 >> BALLOON_PAGE_SHIFT
        host_pages = max(1, -(-pages // (8 * mmap.PAGESIZE)))
        self.size: Final = host_pages * mmap.PAGESIZE  #: bytes
        try:
            self.fd: Final = _sealed_file(self.size)
        except OSError as error:
            raise MapError("making", "a dirty log", error.strerror or str(error)) from error
        self._log = DirtyLog(self.fd, self.size, 0)
        self._bits = _AtomicBits(self.fd, self.size, 0)

    def mark(self, gpa: int, length: int) -> None:
        """Mark every page of a range ourselves."""
        self._log.mark(gpa, length)

    def take(self) -> NDArray[np.int64]:
        """Pages that were marked, ascending, and their marks are gone.

        Pages are to be read after this.  What is marked meanwhile stands for the next time: only
        bits that were read are cleared, none beside them.
        """
        words = self._bits.words().copy()  # numpy refuses to look through what changes meanwhile
        at = np.flatnonzero(words)
        bits = words[at]
        for word, value in zip(at.tolist(), bits.tolist(), strict=True):
            for bit in range(_WORD_BITS):
                if value >> bit & 1:
                    self._bits.call(_AND_NOT, word * _WORD_BITS + bit)()
        lanes = np.unpackbits(bits.view(np.uint8), bitorder="little").reshape(-1, _WORD_BITS)
        rows, columns = np.nonzero(lanes)
        return (at[rows] * _WORD_BITS + columns).astype(np.int64)

    def close(self) -> None:
        """Give it up; safe while devices still have it."""
        self._log.close()
        self._bits.close()
        os.close(self.fd)


def _sealed_file(size: int) -> int:
    """A file of zeros whose size nobody can change. Raises: OSError."""
    fd = os.memfd_create("ballonet-dirty-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(fd)
        raise
    return fd


class _AtomicBits:
    """A mapped file as bits that other processes change as well."""

    def __init__(self, fd: int, size: int, offset: int) -> None:
        """Raises: MapError."""
        if _SYS_FUTEX is None:
            raise MapError("mapping", "the dirty log", "no futex call is known for this processor")
        if not 0 < size <= _BYTES_MAX:  # 0 would map the whole file
            raise MapError("mapping", "the dirty log", f"{size} bytes, expected 1 to {_BYTES_MAX}")
        try:
            self._mapping = mmap.mmap(fd, size, offset=offset)
        except (OSError, ValueError, OverflowError) as error:
            raise MapError("mapping", "the dirty log", str(error)) from error
        self._base = (ctypes.c_char * 1).from_buffer(self._mapping)
        self.count: Final = size * 8

    def words(self) -> NDArray[np.uint32]:
        """All of them, as they change."""
        return np.frombuffer(self._mapping, np.uint32)

    def call(self, operation: int, bit: int) -> Callable[[], object]:
        """What applies an operation to one bit; valid until `close`."""
        word = ctypes.c_void_p(ctypes.addressof(self._base) + bit // _WORD_BITS * 4)
        how = (operation | _ARGUMENT_SHIFT) << 28 | (bit % _WORD_BITS) << 12
        return partial(
            _libc.syscall,
            ctypes.c_long(_SYS_FUTEX or 0),
            word,
            ctypes.c_int(_FUTEX_WAKE_OP | _FUTEX_PRIVATE),
            ctypes.c_int(0),
            ctypes.c_void_p(0),
            word,
            ctypes.c_uint32(how),
        )

    def close(self) -> None:
        """Unmap."""
        del self._base
        self._mapping.close()
