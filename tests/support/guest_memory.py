"""Guest memory as a front-end owns it: memfds, mapped here and handed to the back-end.

Part of the test peer, which shares no code with the package under test.
Contents are read with pread, because touching a hole through a mapping would fill it again.
Units: bytes; `pfn` counts pages of 4 KiB.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES: Final = 4096
MIB: Final = 1 << 20
FILE_NAME: Final = "guest-ram"  #: how /proc shows our files

_WORDS: Final = PAGE_BYTES // 8
_PAGE_STEP: Final = np.uint64(0x9E37_79B9_7F4A_7C15)  # odd, so no two pages have the same words
_WORD_STEP: Final = np.uint64(0xD1B5_4A32_D192_ED03)


@dataclass(frozen=True, slots=True)
class RamRegion:
    """One piece of guest memory; regions of the same `file` number share one memfd."""

    gpa: int
    size: int
    uva: int  #: where the front-end claims to have mapped it
    file_offset: int = 0
    file: int = 0

    @property
    def end_gpa(self) -> int:
        """First address behind it."""
        return self.gpa + self.size


@dataclass(frozen=True, slots=True)
class _File:
    fd: int
    mapping: mmap.mmap


def pattern(pfns: Iterable[int]) -> NDArray[np.uint64]:
    """What `fill` writes: a row of 512 words for each page, no two rows alike."""
    column = np.fromiter(pfns, np.uint64).reshape(-1, 1)
    row = np.arange(1, _WORDS + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        return (column + np.uint64(1)) * _PAGE_STEP + row * _WORD_STEP


class GuestRam:
    """All regions of one guest; a context manager.  With `huge`, made of huge pages."""

    def __init__(self, regions: Sequence[RamRegion], *, huge: bool = False) -> None:
        self.regions = tuple(sorted(regions, key=lambda region: region.gpa))
        self._files: dict[int, _File] = {}
        for number in sorted({region.file for region in regions}):
            ours = [region for region in regions if region.file == number]
            size = max(region.file_offset + region.size for region in ours)
            fd = os.memfd_create(f"{FILE_NAME}-{number}", os.MFD_HUGETLB if huge else 0)
            os.ftruncate(fd, size)
            self._files[number] = _File(fd, mmap.mmap(fd, size))

    @classmethod
    def of_fd(cls, fd: int, size: int) -> Self:
        """The same memory in another process: one region from address 0, its file's number `fd`."""
        made = cls([])
        made.regions = (RamRegion(0, size, 0),)
        made._files[0] = _File(fd, mmap.mmap(fd, size))
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap and close everything that no ring still looks at."""
        for file in self._files.values():
            file.mapping.close()
            os.close(file.fd)
        self._files.clear()

    def fd(self, region: RamRegion) -> int:
        """The file behind a region; it stays ours."""
        return self._files[region.file].fd

    def region_of(self, gpa: int, length: int = 1) -> RamRegion:
        """The region a range lies in wholly. Raises: LookupError."""
        for region in self.regions:
            if region.gpa <= gpa and gpa + length <= region.end_gpa:
                return region
        raise LookupError(f"{gpa:#x} + {length} is no guest memory")

    def uva(self, gpa: int) -> int:
        """The front-end's own address of a guest-physical one."""
        region = self.region_of(gpa)
        return region.uva + gpa - region.gpa

    def view(self, gpa: int, length: int) -> memoryview:
        """A writable window through our mapping; release it before `close`."""
        region = self.region_of(gpa, length)
        start = region.file_offset + gpa - region.gpa
        return memoryview(self._files[region.file].mapping)[start : start + length]

    def read(self, gpa: int, length: int) -> bytes:
        """Contents, holes as zeros; holes stay holes."""
        region = self.region_of(gpa, length)
        data = os.pread(self.fd(region), length, region.file_offset + gpa - region.gpa)
        if len(data) != length:
            raise EOFError(f"guest memory at {gpa:#x} was cut short")
        return data

    def write(self, gpa: int, data: bytes) -> None:
        """Store bytes."""
        with self.view(gpa, len(data)) as window:
            window[:] = data

    def fill(self, first_pfn: int, pages: int) -> None:
        """Give each page of a range contents of its own."""
        words = pattern(range(first_pfn, first_pfn + pages))
        self.write(first_pfn * PAGE_BYTES, words.tobytes())

    def changed_pages(self, first_pfn: int, pages: int) -> set[int]:
        """Pages of a filled range of which at least one byte is no longer what `fill` wrote."""
        wanted = pattern(range(first_pfn, first_pfn + pages))
        differs = (self._words(first_pfn, pages) != wanted).any(axis=1)
        return set((np.flatnonzero(differs) + first_pfn).tolist())

    def zero_pages(self, first_pfn: int, pages: int) -> set[int]:
        """Pages of a range that read as zero throughout."""
        empty = ~self._words(first_pfn, pages).any(axis=1)
        return set((np.flatnonzero(empty) + first_pfn).tolist())

    def blocks(self) -> int:
        """Bytes of host memory behind all files now."""
        return sum(os.fstat(file.fd).st_blocks * 512 for file in self._files.values())

    def truncate(self, region: RamRegion, size: int) -> None:
        """Cut the file behind a region short, as only a hostile front-end does."""
        os.ftruncate(self.fd(region), size)

    def _words(self, first_pfn: int, pages: int) -> NDArray[np.uint64]:
        raw = self.read(first_pfn * PAGE_BYTES, pages * PAGE_BYTES)
        return np.frombuffer(raw, np.uint64).reshape(pages, _WORDS)
