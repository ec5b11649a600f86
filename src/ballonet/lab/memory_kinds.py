"""Kinds of memory that a guest can have, made on this machine, and what the host holds of each.

What the host holds and what this process has mapped are two figures: memory that is shared stays
although nobody maps it.
Not here: how a kind is to be freed (memory.discard).
Units: bytes.  Source: mincore(2), /proc/pid/pagemap in the kernel's admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ballonet.errors import SystemCallError
from ballonet.memory.backing import is_on_disk
from ballonet.memory.discard import MemoryKind, address_of, madvise_range, punch_hole
from ballonet.memory.huge_pages import reserve_huge_pages

__all__ = ["HUGE_PAGE_BYTES", "KINDS", "SIZE_BYTES", "Kind", "Piece", "made", "present_pages"]

HUGE_PAGE_BYTES: Final = 2 << 20
SIZE_BYTES: Final = 8 << 20
_FILL: Final = 0x5A
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the file system in memory that is meant
_PAGEMAP: Final = Path("/proc/self/pagemap")
_PRESENT: Final = np.uint64(1 << 63)

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class Piece:
    """Memory of one kind, mapped here and written all over."""

    def __init__(self, kind: Kind, mapping: mmap.mmap, fd: int | None) -> None:
        self.kind: Final = kind
        self.mapping: Final = mapping
        self.fd: Final = fd
        self.address: Final = address_of(mapping)
        self.fill()

    def fill(self) -> None:
        """Write to all of it."""
        self.mapping[:] = bytes([_FILL]) * SIZE_BYTES

    def held_bytes(self) -> int:
        """What the host holds of it, mapped here or not."""
        if self.kind.page_bytes == HUGE_PAGE_BYTES:
            return self.block_bytes()  # of huge pages mincore tells only what is mapped
        state = np.zeros(SIZE_BYTES // mmap.PAGESIZE, np.uint8)
        if _libc.mincore(self.address, SIZE_BYTES, state.ctypes.data):
            code = ctypes.get_errno()
            raise SystemCallError("mincore of", self.kind.name, os.strerror(code))
        return int((state & 1).sum()) * mmap.PAGESIZE

    def mapped_bytes(self) -> int:
        """What this process's page tables have of it."""
        return present_pages(self.address, SIZE_BYTES) * mmap.PAGESIZE

    def block_bytes(self) -> int:
        """What its file occupies, in memory or on disk; 0 without a file."""
        return 0 if self.fd is None else os.fstat(self.fd).st_blocks * 512

    def is_as_written(self, offset: int = 0) -> bool:
        """A reader finds there what was written; it has the page afterwards."""
        return self.mapping[offset] == _FILL

    def is_zero(self, offset: int = 0) -> bool:
        """A reader finds zeros there; it has the page afterwards."""
        return self.mapping[offset] == 0

    def free_all(self) -> None:
        """Give all of it back. Raises: OSError."""
        if self.fd is None:
            madvise_range(self.mapping, self.kind.table_row, 0, SIZE_BYTES)
        else:
            punch_hole(self.fd, 0, SIZE_BYTES)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind; `open` makes its file, if it has one, for as long as the stack lasts."""

    name: str
    table_row: MemoryKind  #: which of ours it is
    open: Callable[[ExitStack], int] | None = None
    page_bytes: int = mmap.PAGESIZE

    @property
    def is_shared(self) -> bool:
        """Others can map it, too."""
        return self.table_row is not MemoryKind.PRIVATE_ANONYMOUS

    @property
    def is_on_disk(self) -> bool:
        """Its contents have another place than memory."""
        return self.open is _open_on_disk


def present_pages(address: int, length: int) -> int:
    """Pages of a range that this process's page tables have; in pages of the machine's size."""
    with _PAGEMAP.open("rb", buffering=0) as file:
        file.seek(address // mmap.PAGESIZE * 8)
        entries = np.frombuffer(file.read(length // mmap.PAGESIZE * 8), np.uint64)
    return int(np.count_nonzero(entries & _PRESENT))


@contextmanager
def made(kind: Kind) -> Iterator[Piece]:
    """A piece of this kind. Raises: SystemCallError, if this machine has none for us."""
    with ExitStack() as stack:
        try:
            fd = None if kind.open is None else kind.open(stack)
            mapping = mmap.mmap(-1 if fd is None else fd, SIZE_BYTES, kind.table_row.value.flags)
        except OSError as error:
            raise SystemCallError("having", kind.name, error.strerror or str(error)) from error
        stack.callback(mapping.close)
        with suppress(OSError):  # of huge pages, and where the kernel knows no transparent ones
            mapping.madvise(mmap.MADV_NOHUGEPAGE)
        yield Piece(kind, mapping, fd)


def _open_memfd(stack: ExitStack, flags: int = 0) -> int:
    return _sized(stack, os.memfd_create("ballonet-kind", os.MFD_CLOEXEC | flags))


def _open_hugetlb(stack: ExitStack) -> int:
    stack.enter_context(reserve_huge_pages(SIZE_BYTES // HUGE_PAGE_BYTES))
    return _open_memfd(stack, os.MFD_HUGETLB | os.MFD_HUGE_2MB)


def _open_tmpfs(stack: ExitStack) -> int:
    return _sized(stack, os.open(_SHARED_MEMORY, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _open_on_disk(stack: ExitStack) -> int:
    """A file without a name where temporary files are, or here. Raises: SystemCallError; OSError.

    In a file system that knows holes.
    """
    for folder in (tempfile.gettempdir(), "/var/tmp", "."):  # noqa: S108 - whatever is on disk
        with suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
            os.truncate(file.fileno(), SIZE_BYTES)
            punch_hole(file.fileno(), 0, SIZE_BYTES)
            if is_on_disk(file.fileno()):
                fd = os.dup(file.fileno())
                stack.callback(os.close, fd)
                return fd
    raise SystemCallError("having", "a file on disk", "no folder for temporary files is on one")


def _sized(stack: ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    os.ftruncate(fd, SIZE_BYTES)
    return fd


KINDS: Final = (
    Kind("private anonymous", MemoryKind.PRIVATE_ANONYMOUS),
    Kind("shared anonymous", MemoryKind.SHARED_ANONYMOUS),
    Kind("memfd", MemoryKind.SHARED_FILE, _open_memfd),
    Kind("file in tmpfs", MemoryKind.SHARED_FILE, _open_tmpfs),
    Kind("file on disk", MemoryKind.SHARED_FILE, _open_on_disk),
    Kind("huge pages (hugetlb)", MemoryKind.SHARED_FILE, _open_hugetlb, HUGE_PAGE_BYTES),
)
