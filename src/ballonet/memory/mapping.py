"""Guest memory itself: file descriptors mapped, read, measured, and given back to the host.

`GuestMemory` is one memory table of a front-end; a changed table is a new object.  Not here: what
may be discarded (device), or in which order (vhost_user).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Self

from ballonet.errors import GuestMemoryError, MapError, SessionError
from ballonet.memory.discard import MemoryKind, file_page_bytes, madvise_range, punch_hole
from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import Ranges

__all__ = ["DiscardResult", "GuestMemory", "MappedRegion"]


@dataclass(frozen=True, slots=True)
class DiscardResult:
    """What one discard did; `discarded_bytes` were dropped without an error of the kernel."""

    calls: int = 0
    discarded_bytes: int = 0
    failed_bytes: int = 0
    error: OSError | None = None


class MappedRegion:
    """One region, mapped shared into this process; owns a duplicate of its descriptor."""

    def __init__(
        self, region: Region, mapping: mmap.mmap, fd: int | None, kind: MemoryKind
    ) -> None:
        self.region = region
        self.kind = kind
        self._mapping, self._fd = mapping, fd
        self._lead = len(mapping) - region.size  # bytes mapped before the region, for alignment
        self.view = memoryview(mapping)[self._lead :]

    @classmethod
    def from_fd(cls, region: Region, fd: int) -> Self:
        """Map a region of a file; the host page size is read from the file.

        Raises: MapError, if the file is too short for it or cannot be mapped for writing.
        """
        try:
            page_bytes = max(file_page_bytes(fd), region.page_bytes)
            _check_file_size(region, fd)
            lead = region.file_offset % max(page_bytes, mmap.ALLOCATIONGRANULARITY)
            mapping = mmap.mmap(fd, lead + region.size, offset=region.file_offset - lead)
            own_fd = os.dup(fd)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise MapError("mapping", f"guest memory {region.gpa:#x}", reason) from error
        sized = replace(region, page_bytes=page_bytes)
        return cls(sized, mapping, own_fd, MemoryKind.SHARED_FILE)

    @classmethod
    def anonymous(cls, region: Region, *, shared: bool) -> Self:
        """Fresh memory of this process alone, for devices that live in it."""
        flags = mmap.MAP_ANONYMOUS | (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
        kind = MemoryKind.SHARED_ANONYMOUS if shared else MemoryKind.PRIVATE_ANONYMOUS
        return cls(region, mmap.mmap(-1, region.size, flags=flags), None, kind)

    def file_shrank(self) -> bool:
        """True if the file no longer covers the region, so that touching it would raise SIGBUS."""
        if self._fd is None:
            return False
        return os.fstat(self._fd).st_size < self.region.file_offset + self.region.size

    def discard(self, offset: int, length: int) -> None:
        """Free a range of whole host pages, in bytes from the region's start. Raises: OSError."""
        if self._fd is not None:
            punch_hole(self._fd, self.region.file_offset + offset, length)
        else:
            madvise_range(self._mapping, self.kind, self._lead + offset, length)

    def held_blocks(self) -> dict[tuple[int, int], int]:
        """Bytes of host memory behind the whole file, by (device, inode); empty without a file."""
        if self._fd is None:
            return {}
        status = os.fstat(self._fd)
        return {(status.st_dev, status.st_ino): status.st_blocks * 512}

    def close(self) -> None:
        """Unmap; every window on the region must have been released before."""
        self.view.release()
        self._mapping.close()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class GuestMemory:
    """All regions of one front-end; a `GuestView`. Changes happen whole or not at all."""

    def __init__(self, mapped: Sequence[MappedRegion] = ()) -> None:
        self._mapped: list[MappedRegion] = []
        self.table = RegionTable([])
        self._take(list(mapped))

    def replace(self, regions: Sequence[Region], fds: Sequence[int]) -> None:
        """Map these regions in place of all others; the caller keeps its descriptors.

        Raises: MapError, SessionError; the old regions stay mapped then.
        """
        RegionTable(regions)  # refuse a bad table before the first system call
        with ExitStack() as undo:
            mapped = []
            for region, fd in zip(regions, fds, strict=True):
                mapped.append(MappedRegion.from_fd(region, fd))
                undo.callback(mapped[-1].close)
            old = self._mapped
            self._take(mapped)
            undo.pop_all()
        for one in old:
            one.close()

    def add(self, region: Region, fd: int) -> None:
        """Map one more region. Raises: MapError, SessionError."""
        RegionTable([*self.table.regions, region])
        self._take([*self._mapped, MappedRegion.from_fd(region, fd)])

    def remove(self, region: Region) -> None:
        """Unmap the region of the same addresses and size. Raises: SessionError."""
        wanted = (region.gpa, region.uva, region.size)
        for one in self._mapped:
            if (one.region.gpa, one.region.uva, one.region.size) == wanted:
                self._take([other for other in self._mapped if other is not one])
                one.close()
                return
        raise SessionError("memory table", f"there is no region at {region.gpa:#x} to remove")

    def _take(self, mapped: list[MappedRegion]) -> None:
        mapped.sort(key=lambda one: one.region.gpa)
        self.table = RegionTable([one.region for one in mapped])
        self._mapped = mapped

    def view(self, gpa: int, length: int) -> memoryview:
        """A window on guest-physical memory. Raises: GuestMemoryError."""
        index, offset = self.table.find(gpa, length)
        return self._mapped[index].view[offset : offset + length]

    def view_uva(self, uva: int, length: int) -> memoryview:
        """A window by the front-end's own address, on memory that is still there.

        Raises: GuestMemoryError.
        """
        index, offset = self.table.find_uva(uva, length)
        if self._mapped[index].file_shrank():
            raise GuestMemoryError(uva, length)
        return self._mapped[index].view[offset : offset + length]

    def discard(self, ranges: Ranges) -> DiscardResult:
        """Free ranges of one region; an error of the kernel is reported, never raised."""
        region = self._mapped[ranges.region]
        return _discard_each(region.discard, ranges)

    def shrunken_regions(self) -> list[Region]:
        """Regions whose file was cut short; touching one would kill this process."""
        return [one.region for one in self._mapped if one.file_shrank()]

    def held_bytes(self) -> int:
        """Host memory behind the guest's files, each file counted once."""
        blocks: dict[tuple[int, int], int] = {}
        for one in self._mapped:
            blocks |= one.held_blocks()
        return sum(blocks.values())

    @property
    def total_bytes(self) -> int:
        """Guest memory in all regions."""
        return sum(one.region.size for one in self._mapped)

    def close(self) -> None:
        """Unmap everything."""
        for one in self._mapped:
            one.close()
        self._take([])


def _check_file_size(region: Region, fd: int) -> None:
    size = os.fstat(fd).st_size
    if size < region.file_offset + region.size:
        raise ValueError(
            f"the file has {size} bytes, the region ends at {region.file_offset + region.size}"
        )


def _discard_each(discard: Callable[[int, int], None], ranges: Ranges) -> DiscardResult:
    done = failed = calls = 0
    problem: OSError | None = None
    for offset, length in zip(ranges.offsets.tolist(), ranges.lengths.tolist(), strict=True):
        calls += 1
        try:
            discard(offset, length)
            done += length
        except OSError as error:
            failed += length
            problem = error
    return DiscardResult(calls, done, failed, problem)
