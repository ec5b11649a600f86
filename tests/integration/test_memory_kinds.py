"""Memory of every kind, freed for real, and the kinds that cannot be freed left alone.

`pytest -s` shows how much each kind gave back.
Units: bytes; pages are of 4 KiB.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.host_memory import (
    HUGE_BYTES,
    UnavailableError,
    huge_bytes_free,
    huge_pages,
    mapped_bytes,
    mapping_modes,
    mounted,
    resident_bytes,
)

from ballonet.errors import SessionError
from ballonet.memory import mapping as module_under_test
from ballonet.memory.discard import MemoryKind, madvise_ranges
from ballonet.memory.mapping import GuestMemory, MappedRegion
from ballonet.memory.regions import Region
from ballonet.memory.runs import DiscardResult, locate

PAGE: Final = 4096
HUGE_COUNT: Final = 16
FILE_BYTES: Final = HUGE_COUNT * HUGE_BYTES
SIZE: Final = FILE_BYTES - HUGE_BYTES
GPA, UVA = 1 << 32, 0x7F00_0000_0000
NAME: Final = "kinds-of-memory"
SEAL_FUTURE_WRITE: Final = 0x10

#: Given pages, from the region's start: alone, in runs, two whole huge pages, one in a longer run.
GIVEN: Final = np.r_[3:40, 100, 102, 512:1536, 2000:2600, SIZE // PAGE - 1]
#: A file system may need a few blocks to write down where the holes are.
DISK_METADATA: Final = 64 << 10

Open = Callable[[Path, ExitStack], int]
Say = Callable[[str, int, int], None]


def memfd(_: Path, stack: ExitStack, *, flags: int = 0, bytes_: int = FILE_BYTES) -> int:
    fd = os.memfd_create(NAME, os.MFD_ALLOW_SEALING | flags)
    stack.callback(os.close, fd)
    os.ftruncate(fd, bytes_)
    return fd


def tmpfs_file(_: Path, stack: ExitStack) -> int:
    return sized_file(Path("/dev/shm"), stack, os.O_TMPFILE)


def disk_file(folder: Path, stack: ExitStack) -> int:
    return sized_file(folder / NAME, stack, os.O_CREAT)


def sealed_size(folder: Path, stack: ExitStack) -> int:
    fd = memfd(folder, stack)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def hugetlb_memfd(folder: Path, stack: ExitStack) -> int:
    stack.enter_context(huge_pages(HUGE_COUNT))
    return memfd(folder, stack, flags=os.MFD_HUGETLB)


def hugetlbfs_file(folder: Path, stack: ExitStack) -> int:
    stack.enter_context(huge_pages(HUGE_COUNT))
    where = stack.enter_context(mounted("hugetlbfs", folder / "huge", "pagesize=2M"))
    return sized_file(where / NAME, stack, os.O_CREAT)


def read_only(folder: Path, stack: ExitStack) -> int:
    writable = pattern_file(memfd(folder, stack))
    fd = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY)
    stack.callback(os.close, fd)
    return fd


def sealed_write(folder: Path, stack: ExitStack) -> int:
    fd = pattern_file(memfd(folder, stack))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    return fd


def sealed_future_write(folder: Path, stack: ExitStack) -> int:
    fd = pattern_file(memfd(folder, stack))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEAL_FUTURE_WRITE)
    return fd


def ramfs_file(folder: Path, stack: ExitStack) -> int:
    """A file system that knows no holes."""
    where = stack.enter_context(mounted("ramfs", folder / "ram"))
    return pattern_file(sized_file(where / NAME, stack, os.O_CREAT))


def sized_file(path: Path, stack: ExitStack, flags: int) -> int:
    fd = os.open(path, flags | os.O_RDWR, 0o600)
    stack.callback(os.close, fd)
    os.ftruncate(fd, FILE_BYTES)
    return fd


def pattern() -> NDArray[np.uint8]:
    """A whole file in which no byte is zero."""
    return np.random.default_rng(1).integers(1, 255, FILE_BYTES, np.uint8)


def pattern_file(fd: int) -> int:
    os.pwrite(fd, pattern().data, 0)
    return fd


def address_of(view: memoryview | mmap.mmap) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


@dataclass(frozen=True, slots=True)
class Kind:
    """How to have a file of some kind, and what to expect of it."""

    open: Open
    page_bytes: int = PAGE
    slack_bytes: int = 0  #: that the file system may keep

    @property
    def file_offset(self) -> int:
        """Where the region begins in the file: at no multiple of more than a host page."""
        return max(self.page_bytes, 3 * PAGE)


FREED: Final = {
    "memfd": Kind(memfd),
    "memfd sealed in size": Kind(sealed_size),
    "tmpfs file": Kind(tmpfs_file),
    "file on disk": Kind(disk_file, slack_bytes=DISK_METADATA),
    "hugetlb memfd": Kind(hugetlb_memfd, HUGE_BYTES),
    "hugetlbfs file": Kind(hugetlbfs_file, HUGE_BYTES),
}
ANONYMOUS: Final = [kind for kind in MemoryKind if kind is not MemoryKind.SHARED_FILE]
KEPT: Final = {
    "read-only descriptor": (read_only, "descriptor is read-only"),
    "sealed against writing": (sealed_write, "sealed against writing"),
    "sealed against later writing": (sealed_future_write, "sealed against writing"),
    "file system without holes": (ramfs_file, os.strerror(errno.EOPNOTSUPP)),
}


@pytest.fixture(autouse=True, params=["in one call", "one by one", "stops half-way"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the kernel takes many ranges: nothing a user sees may depend on it."""
    way: str = request.param
    if way == "one by one":
        monkeypatch.setattr(module_under_test, "discards_in_one_call", lambda: False)
    elif way == "stops half-way":
        whole = madvise_ranges

        def first_only(
            kind: MemoryKind, addresses: NDArray[np.int64], lengths: NDArray[np.int64]
        ) -> int:
            return whole(kind, addresses[:1], lengths[:1])

        monkeypatch.setattr(module_under_test, "madvise_ranges", first_only)
    return way


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as undo:
        yield undo


def open_kind(open_: Open, folder: Path, stack: ExitStack) -> int:
    try:
        return open_(folder, stack)
    except UnavailableError as error:
        pytest.skip(str(error))


def map_file(fd: int, stack: ExitStack, file_offset: int = 0, size: int = SIZE) -> GuestMemory:
    memory = GuestMemory()
    memory.replace([Region(GPA, size, UVA, file_offset)], [fd])
    stack.callback(memory.close)
    return memory


def give(memory: GuestMemory, pages: NDArray[np.int64]) -> DiscardResult:
    """Discard pages of the region at GPA, as the device does for a message of the driver's."""
    located = locate((pages + GPA // PAGE).astype(np.uint32), memory.table)
    assert located.rejected_pages == 0
    if not located.ranges:
        return DiscardResult()
    (ranges,) = located.ranges
    return memory.discard(ranges)


def whole_pages(given: NDArray[np.int64], page_bytes: int, start: int) -> NDArray[np.int64]:
    """The given pages that make up whole host pages; the file's page `start` is the region's 0."""
    each = page_bytes // PAGE
    hosts = (given + start) // each
    return np.array(
        [page for page, host in zip(given, hosts, strict=True) if (hosts == host).sum() == each]
    )


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Say:
    """Has a line printed at the end of the run."""

    def printed(kind: str, freed: int, calls: int) -> None:
        record_property(kind, f"{freed / 2**20:.2f} MiB freed in {calls} calls")

    return printed


@pytest.mark.parametrize("name", list(FREED))
def test_a_file_is_freed_for_everyone_and_only_where_pages_were_given(
    name: str, tmp_path: Path, stack: ExitStack, say: Say
) -> None:
    kind = FREED[name]
    fd = open_kind(kind.open, tmp_path, stack)
    theirs = stack.enter_context(mmap.mmap(fd, FILE_BYTES))
    memory = map_file(fd, stack, kind.file_offset)
    expected = pattern()
    theirs[:] = expected.tobytes()
    os.fsync(fd)
    before, free_before = os.fstat(fd).st_blocks * 512, huge_bytes_free()

    result = give(memory, GIVEN)

    os.fsync(fd)
    freed = before - os.fstat(fd).st_blocks * 512
    say(name, freed, result.calls)
    start = kind.file_offset // PAGE
    gone = whole_pages(GIVEN, kind.page_bytes, start)
    assert result.error is None
    assert (result.discarded_bytes, result.failed_bytes) == (len(gone) * PAGE, 0)
    assert len(gone) * PAGE - kind.slack_bytes <= freed <= len(gone) * PAGE
    if kind.page_bytes == HUGE_BYTES:
        assert len(gone) == 3 * 512
        assert huge_bytes_free() - free_before == freed
    else:
        assert len(gone) == len(GIVEN)
    expected.reshape(-1, PAGE)[gone + start] = 0
    ours = expected[kind.file_offset : kind.file_offset + SIZE]
    assert bytes(memory.view(GPA, SIZE)) == ours.tobytes()
    assert theirs[:] == expected.tobytes()


@pytest.mark.parametrize("kind", ANONYMOUS, ids=[kind.value.name for kind in ANONYMOUS])
def test_anonymous_memory_is_freed_only_where_pages_were_given(
    request: pytest.FixtureRequest, kind: MemoryKind, stack: ExitStack, say: Say
) -> None:
    region = MappedRegion.anonymous(Region(GPA, SIZE, UVA, 0), kind)
    memory = GuestMemory([region])
    stack.callback(memory.close)
    expected = pattern()[:SIZE]
    memory.view(GPA, SIZE)[:] = expected.tobytes()
    address = address_of(memory.view(GPA, SIZE))
    before = resident_bytes(address, SIZE)

    result = give(memory, GIVEN)

    freed = before - resident_bytes(address, SIZE)
    say(request.node.callspec.id, freed, result.calls)
    assert result == DiscardResult(
        result.calls, len(GIVEN) * PAGE, split_blocks=result.split_blocks
    )
    assert freed == len(GIVEN) * PAGE
    expected.reshape(-1, PAGE)[GIVEN] = 0
    assert bytes(memory.view(GPA, SIZE)) == expected.tobytes()


@pytest.mark.parametrize("name", list(KEPT))
def test_what_cannot_be_freed_keeps_every_byte_and_counts_as_failed(
    name: str, tmp_path: Path, stack: ExitStack, say: Say
) -> None:
    open_, reason = KEPT[name]
    fd = open_kind(open_, tmp_path, stack)
    memory = map_file(fd, stack)
    before = os.fstat(fd).st_blocks

    result = give(memory, GIVEN)

    say(name, (before - os.fstat(fd).st_blocks) * 512, result.calls)
    assert (result.discarded_bytes, result.failed_bytes) == (0, len(GIVEN) * PAGE)
    assert reason in str(result.error)
    assert os.fstat(fd).st_blocks == before
    assert bytes(memory.view(GPA, SIZE)) == pattern()[:SIZE].tobytes()


def test_one_region_that_cannot_be_freed_does_not_keep_the_next_from_it(
    tmp_path: Path, stack: ExitStack
) -> None:
    fds = [open_kind(ramfs_file, tmp_path, stack), pattern_file(memfd(tmp_path, stack))]
    memory = GuestMemory()
    regions = [Region(GPA, SIZE, UVA, 0), Region(GPA + SIZE, SIZE, UVA + SIZE, 0)]
    memory.replace(regions, fds)
    stack.callback(memory.close)
    pages = np.r_[GIVEN, GIVEN + SIZE // PAGE] + GPA // PAGE
    results = [memory.discard(one) for one in locate(pages.astype(np.uint32), memory.table).ranges]
    given = len(GIVEN) * PAGE
    assert [(one.discarded_bytes, one.failed_bytes) for one in results] == [(0, given), (given, 0)]


@pytest.mark.parametrize(("code", "helps"), [(errno.EOPNOTSUPP, True), (errno.EIO, False)])
def test_where_holes_cannot_be_punched_the_mapping_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, stack: ExitStack, *, helps: bool
) -> None:
    def refuse(_fd: int, _offset: int, _length: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module_under_test, "punch_hole", refuse)
    monkeypatch.setattr(module_under_test, "discards_in_one_call", lambda: False)
    fd = pattern_file(memfd(tmp_path, stack))
    memory = map_file(fd, stack, 3 * PAGE)
    result = give(memory, GIVEN)
    given = len(GIVEN) * PAGE
    assert os.fstat(fd).st_blocks * 512 == FILE_BYTES - (given if helps else 0)
    assert (result.discarded_bytes, result.failed_bytes) == ((given, 0) if helps else (0, given))


@pytest.mark.parametrize("open_", [read_only, sealed_write, sealed_future_write])
def test_a_window_to_write_to_is_refused_in_read_only_memory(
    open_: Open, tmp_path: Path, stack: ExitStack
) -> None:
    memory = map_file(open_kind(open_, tmp_path, stack), stack)
    assert memory.view(GPA, 4).readonly
    with pytest.raises(SessionError, match="guest memory 0x100000000 is read-only: its"):
        memory.view_uva(UVA, 16)


@pytest.mark.parametrize(
    ("open_", "mode"),
    [
        (memfd, "rw-s"),
        (sealed_size, "rw-s"),
        (disk_file, "rw-s"),
        (hugetlb_memfd, "rw-s"),
        (read_only, "r--s"),
        (sealed_write, "r--s"),
        (sealed_future_write, "r--s"),
    ],
)
def test_a_file_is_mapped_shared_and_for_writing_only_where_that_is_allowed(
    open_: Open, mode: str, tmp_path: Path, stack: ExitStack
) -> None:
    fd = open_kind(open_, tmp_path, stack)
    memory = map_file(fd, stack)
    assert mapping_modes(NAME) == [mode]
    memory.replace([], [])
    assert mapping_modes(NAME) == []


@pytest.mark.parametrize("shared_file", [True, False], ids=["memfd", "shared anonymous"])
def test_the_trap_dontneed_on_a_shared_mapping_frees_nothing(
    tmp_path: Path, stack: ExitStack, *, shared_file: bool
) -> None:
    fd = memfd(tmp_path, stack) if shared_file else -1
    mapping = mmap.mmap(fd, FILE_BYTES)
    mapping[:] = pattern().tobytes()
    address = address_of(mapping)
    assert mapped_bytes(address) == FILE_BYTES

    mapping.madvise(mmap.MADV_DONTNEED)

    assert mapped_bytes(address) == 0  # which looks like success
    assert resident_bytes(address, FILE_BYTES) == FILE_BYTES
    if shared_file:
        assert os.fstat(fd).st_blocks * 512 == FILE_BYTES
    assert mapping[:] == pattern().tobytes()


ODD: Final = {
    "begins and ends inside": (5 * PAGE, 3 * HUGE_BYTES + 7 * PAGE, 2),
    "ends inside": (HUGE_BYTES, HUGE_BYTES + PAGE, 1),
    "begins inside": (HUGE_BYTES - PAGE, 2 * HUGE_BYTES + PAGE, 2),
    "less than one": (HUGE_BYTES, HUGE_BYTES // 2, 0),
    "parts of two": (HUGE_BYTES // 2, HUGE_BYTES, 0),
    "ends with the file": (FILE_BYTES - HUGE_BYTES - PAGE, HUGE_BYTES + PAGE, 1),
}


@pytest.mark.parametrize(("offset", "size", "whole"), list(ODD.values()), ids=list(ODD))
def test_a_region_that_is_no_multiple_of_the_huge_page_frees_the_whole_ones_and_leaks_nothing(
    offset: int, size: int, whole: int, tmp_path: Path, stack: ExitStack
) -> None:
    fd = open_kind(hugetlb_memfd, tmp_path, stack)
    with mmap.mmap(fd, FILE_BYTES) as theirs:
        theirs[:] = pattern().tobytes()
    with ExitStack() as mapped:
        memory = map_file(fd, mapped, offset, size)
        assert bytes(memory.view(GPA, size)) == pattern()[offset : offset + size].tobytes()
        before = huge_bytes_free()
        result = give(memory, np.arange(size // PAGE))
        assert huge_bytes_free() - before == whole * HUGE_BYTES
        assert (result.discarded_bytes, result.failed_bytes) == (whole * HUGE_BYTES, 0)
    assert mapping_modes(NAME) == []
    assert os.fstat(fd).st_blocks * 512 == FILE_BYTES - whole * HUGE_BYTES


def test_mapping_a_file_again_sets_no_huge_page_aside_for_its_holes(
    tmp_path: Path, stack: ExitStack
) -> None:
    fd = open_kind(hugetlb_memfd, tmp_path, stack)
    with mmap.mmap(fd, FILE_BYTES) as theirs:
        theirs[:] = pattern().tobytes()
    memory = map_file(fd, stack)
    give(memory, np.arange(4 * 512))
    free = huge_bytes_free()
    memory.replace([Region(GPA, SIZE, UVA, 0)], [fd])
    assert huge_bytes_free() == free
