"""Guest memory itself: file descriptors mapped, read, measured, and given back to the host.

`GuestMemory` is one memory table of a front-end; a changed table is a new object.  Not here: what
may be discarded (device), or in which order (vhost_user).

Files are always mapped shared, never private: a private mapping would hide the guest's writes, and
discards would change the file behind it.  A file that we may not write (ROM) is mapped read-only;
nothing in it is ever discarded.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, Self

import numpy as np

from ballonet.errors import GuestMemoryError, MapError, SessionError
from ballonet.memory.backing import file_page_bytes, write_obstacle
from ballonet.memory.discard import (
    VECTOR_MAX,
    MemoryKind,
    address_of,
    discards_in_one_call,
    madvise_range,
    madvise_ranges,
    punch_hole,
)
from ballonet.memory.guest_files import FileUse, GuestFiles, is_cut_short
from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import DiscardResult, Ranges

__all__ = [
    "HUGE_BLOCK_BYTES",
    "MAPPED_BYTES_MAX",
    "GuestMemory",
    "MappedRegion",
]

#: What the kernel makes a transparent huge page of, and splits when a part of it is dropped.
HUGE_BLOCK_BYTES: Final = 2 << 20

#: No balloon reaches further: its page numbers have 32 bits [VIRTIO 1.4 5.5.6].  A process can map
#: 128 TiB, and a table is mapped beside the one it replaces.
MAPPED_BYTES_MAX: Final = 1 << 32 + 12
_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE; has no name in Python


class MappedRegion:
    """One region, mapped into this process; owns a duplicate of its descriptor.

    `lead` is how many bytes are mapped before the region, so that the mapping starts at a page.
    """

    def __init__(
        self,
        region: Region,
        mapping: mmap.mmap,
        kind: MemoryKind,
        *,
        fd: int | None = None,
        lead: int = 0,
        write_obstacle: str | None = None,
    ) -> None:
        self.region = region
        self.kind = kind
        self.write_obstacle = write_obstacle  #: why it is mapped read-only; None if it is not
        self._mapping, self._fd, self._lead = mapping, fd, lead
        self._address = address_of(mapping) + lead
        self._block_lead = self._address if fd is None else region.file_offset
        self._takes_vectors = discards_in_one_call()
        self.view = memoryview(mapping)[lead : lead + region.size]

    @classmethod
    def from_fd(cls, region: Region, fd: int) -> Self:
        """Map a region of a file; the host page size is read from the file.

        Raises: MapError, if the file is too short for it or cannot be mapped.
        """
        try:
            page_bytes = file_page_bytes(fd)
            obstacle = write_obstacle(fd)
            _check_file_size(region, fd)
            lead = region.file_offset % max(page_bytes, mmap.ALLOCATIONGRANULARITY)
            length = _mapped_bytes(lead + region.size, page_bytes)
            prot = mmap.PROT_READ | (mmap.PROT_WRITE if obstacle is None else 0)
            kind = MemoryKind.SHARED_FILE
            start = region.file_offset - lead
            mapping = mmap.mmap(fd, length, kind.value.flags, prot, offset=start)
            own_fd = os.dup(fd)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise MapError("mapping", f"guest memory {region.gpa:#x}", reason) from error
        sized = replace(region, page_bytes=max(page_bytes, region.page_bytes))
        return cls(sized, mapping, kind, fd=own_fd, lead=lead, write_obstacle=obstacle)

    @classmethod
    def anonymous(cls, region: Region, kind: MemoryKind) -> Self:
        """Fresh memory of this process alone, for devices that live in it."""
        sized = replace(region, page_bytes=max(mmap.PAGESIZE, region.page_bytes))
        return cls(sized, mmap.mmap(-1, region.size, kind.value.flags), kind)

    @property
    def is_covered(self) -> bool:
        """The file is there and long enough."""
        try:
            return self.file_use is None or not is_cut_short(self.file_use)
        except MapError:
            return False

    def discard(self, ranges: Ranges) -> DiscardResult:
        """Free whole host pages; an error of the kernel is reported, never raised."""
        done = calls = 0
        if self._takes_vectors and ranges.offsets.size > 1:
            done, calls = self._discard_vectors(ranges)
        rest = int(np.searchsorted(np.cumsum(ranges.lengths), done, side="right"))
        splits = ranges.split_blocks(HUGE_BLOCK_BYTES, self._block_lead)
        result = DiscardResult(calls, done, split_blocks=splits)
        for offset, length in zip(
            ranges.offsets[rest:].tolist(), ranges.lengths[rest:].tolist(), strict=True
        ):
            result = self._discard_one(offset, length, result)
        return result

    def _discard_vectors(self, ranges: Ranges) -> tuple[int, int]:
        """Free as many ranges as the kernel takes; returns bytes and system calls."""
        done = calls = 0
        for part in ranges.slices(VECTOR_MAX):
            calls += 1
            freed = madvise_ranges(self.kind, part.offsets + self._address, part.lengths)
            done += freed
            if freed != part.total_bytes:
                self._takes_vectors = False  # as on file systems without holes
                break
        return done, calls

    def _discard_one(self, offset: int, length: int, before: DiscardResult) -> DiscardResult:
        calls = before.calls + 1
        try:
            self._free(offset, length)
        except OSError as error:
            return replace(
                before, calls=calls, failed_bytes=before.failed_bytes + length, error=error
            )
        return replace(before, calls=calls, discarded_bytes=before.discarded_bytes + length)

    def _free(self, offset: int, length: int) -> None:
        if self._fd is not None:
            try:
                punch_hole(self._fd, self.region.file_offset + offset, length)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
            else:
                return
        madvise_range(self._mapping, self.kind, self._lead + offset, length)

    def populate(self, offset: int, length: int) -> None:
        """Have memory behind a range now, as far as the kernel can say that it has none.

        Else touching it would end this process by SIGBUS: a file system may be full, or huge pages
        used up.  Raises: OSError.
        """
        first = (self._lead + offset) // mmap.PAGESIZE * mmap.PAGESIZE
        try:
            self._mapping.madvise(_POPULATE_WRITE, first, self._lead + offset + length - first)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a kernel before 5.14
                raise

    @property
    def file_use(self) -> FileUse | None:
        """What of its file it needs; None without a file."""
        if self._fd is None:
            return None
        return FileUse(self._fd, self.region.file_offset + self.region.size, self.region.gpa)

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
        _check_table(regions)  # refuse a bad one before the first system call
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
        _check_table([*self.table.regions, region])
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
        self._views = [one.view for one in mapped]
        self._files = GuestFiles(use for one in mapped if (use := one.file_use) is not None)

    def view(self, gpa: int, length: int) -> memoryview:
        """A window on guest-physical memory, to read from. Raises: GuestMemoryError."""
        index, offset = self.table.find(gpa, length)
        return self._views[index][offset : offset + length]

    def view_uva(self, uva: int, length: int) -> memoryview:
        """A window by the front-end's own address, to write to, on memory that is still there.

        Raises: GuestMemoryError; SessionError, if the region is read-only or there is no memory.
        """
        index, offset = self.table.find_uva(uva, length)
        mapped = self._mapped[index]
        if not mapped.is_covered:
            raise GuestMemoryError(uva, length)
        if mapped.write_obstacle is not None:
            raise SessionError(
                f"ring at {uva:#x}", _read_only(mapped.region, mapped.write_obstacle)
            )
        try:
            mapped.populate(offset, length)
        except OSError as error:
            reason = f"no memory can be had for it: {error.strerror}"
            raise SessionError(f"ring at {uva:#x}", reason) from error
        return mapped.view[offset : offset + length]

    def discard(self, ranges: Ranges) -> DiscardResult:
        """Free ranges of one region; an error of the kernel is reported, never raised.

        Of a read-only region nothing is freed, and the kernel is not asked.
        """
        mapped = self._mapped[ranges.region]
        if mapped.write_obstacle is not None:
            reason = _read_only(mapped.region, mapped.write_obstacle)
            error = OSError(errno.EPERM, reason)
            return DiscardResult(failed_bytes=ranges.total_bytes, error=error)
        return mapped.discard(ranges)

    def check_files(self) -> None:
        """Refuse to touch memory whose file was cut short: that would end this process.

        Raises: MapError.
        """
        cut = self._files.find_cut_short()
        if cut is not None:
            raise MapError("using", f"guest memory {cut.gpa:#x}", "its file was cut short")

    def held_bytes(self) -> int:
        """Host memory behind the guest's files, each file counted once."""
        return self._files.held_bytes()

    @property
    def total_bytes(self) -> int:
        """Guest memory in all regions."""
        return sum(one.region.size for one in self._mapped)

    def close(self) -> None:
        """Unmap everything."""
        for one in self._mapped:
            one.close()
        self._take([])


def _check_table(regions: Sequence[Region]) -> None:
    """Raises: SessionError."""
    RegionTable(regions)
    total = sum(region.size for region in regions)
    if total > MAPPED_BYTES_MAX:
        raise SessionError("memory table", f"{total} bytes, at most {MAPPED_BYTES_MAX} are mapped")


def _check_file_size(region: Region, fd: int) -> None:
    size = os.fstat(fd).st_size
    if size < region.file_offset + region.size:
        raise ValueError(
            f"the file has {size} bytes, the region ends at {region.file_offset + region.size}"
        )


def _mapped_bytes(length: int, page_bytes: int) -> int:
    """How much to map for so many bytes: whole huge pages, as the kernel does in any case.

    A mapping that Python believes to be shorter could not be unmapped.
    """
    if page_bytes == mmap.PAGESIZE:
        return length
    return -(-length // page_bytes) * page_bytes


def _read_only(region: Region, obstacle: str) -> str:
    return f"guest memory {region.gpa:#x} is read-only: {obstacle}"
