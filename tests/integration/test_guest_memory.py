"""Memory tables: taken whole or not at all, measured once, and logged when dirty."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.support.small_disk import small_disk

from ballonet.errors import MapError, SessionError
from ballonet.memory.dirty_log import DirtyLog
from ballonet.memory.mapping import MAPPED_BYTES_MAX, GuestMemory
from ballonet.memory.regions import Region

PAGE = 4096
PAGES = 256
SIZE = PAGES * PAGE
TIB = 1 << 40
FILE = "guest-of-many-tib"


def memfd_memory() -> GuestMemory:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE + 2 * PAGE)
    memory = GuestMemory()
    memory.replace([Region(0, SIZE, 0, file_offset=2 * PAGE)], [fd])
    os.close(fd)
    return memory


def test_a_file_that_is_too_short_is_refused() -> None:
    memory = GuestMemory()
    short = os.memfd_create("short")
    os.ftruncate(short, SIZE - 1)
    with pytest.raises(MapError):
        memory.replace([Region(0, SIZE, 0, 0)], [short])
    os.close(short)
    assert memory.total_bytes == 0


def test_a_refused_table_leaves_the_old_one_mapped() -> None:
    memory = memfd_memory()
    memory.view(0, 4)[:] = b"kept"
    with pytest.raises(SessionError):
        memory.replace([Region(0, SIZE, 0, 0), Region(PAGE, SIZE, 1 << 40, 0)], [-1, -1])
    assert bytes(memory.view(0, 4)) == b"kept"
    memory.close()


def test_a_guest_of_12_tib_is_mapped_and_mapped_anew_beside_itself() -> None:
    with sparse_file(12 * TIB) as fd, closing(GuestMemory()) as memory:
        for _ in range(3):
            memory.replace([Region(0, 12 * TIB, 0, 0)], [fd])
            assert memory.total_bytes == 12 * TIB


def test_more_than_a_balloon_can_reach_is_refused_before_it_is_mapped() -> None:
    with sparse_file(12 * TIB) as fd, closing(GuestMemory()) as memory:
        halves = [Region(i * 9 * TIB, 9 * TIB, i * 9 * TIB, 0) for i in range(2)]
        with pytest.raises(SessionError, match="at most"):
            memory.replace(halves, [fd, fd])
        memory.add(halves[0], fd)
        with pytest.raises(SessionError, match="at most"):
            memory.add(halves[1], fd)
        assert memory.total_bytes == 9 * TIB == mapped_bytes_of(FILE)
    assert MAPPED_BYTES_MAX == 1 << 44


def mapped_bytes_of(name: str) -> int:
    total = 0
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if name in line:
            first, last = (int(one, 16) for one in line.split()[0].split("-"))
            total += last - first
    return total


@contextmanager
def sparse_file(size: int) -> Iterator[int]:
    fd = os.memfd_create(FILE)
    os.ftruncate(fd, size)
    try:
        yield fd
    finally:
        os.close(fd)


def test_a_ring_in_memory_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, closing(GuestMemory()) as memory:
        fd = os.open(disk.path / "memory", os.O_CREAT | os.O_RDWR)
        os.ftruncate(fd, SIZE)
        memory.replace([Region(0, SIZE, 0, 0)], [fd])
        os.close(fd)
        disk.fill()
        with pytest.raises(SessionError, match="no memory can be had"):
            memory.view_uva(PAGE, 16)
        disk.free()
        memory.view_uva(PAGE + 8, 16)[:] = b"x" * 16


def test_a_file_behind_several_regions_is_measured_once() -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 2 * SIZE)
    os.pwrite(fd, b"x" * 2 * SIZE, 0)
    memory = GuestMemory()
    memory.replace([Region(0, SIZE, 0, 0), Region(1 << 32, SIZE, 1 << 40, SIZE)], [fd, fd])
    assert memory.held_bytes() == 2 * SIZE
    memory.close()
    os.close(fd)


def test_the_dirty_log_marks_pages_without_touching_the_bits_of_others() -> None:
    fd = os.memfd_create("log")
    os.ftruncate(fd, PAGE)
    theirs = mmap.mmap(fd, PAGE)
    theirs[4:8] = b"\x01\x00\x00\x80"
    log = DirtyLog(fd, PAGE, 0)
    log.mark(gpa=33 * PAGE + 4000, length=200)  # pages 33 and 34
    log.mark(gpa=PAGE * 8 * PAGE, length=PAGE)  # beyond the log
    assert theirs[4:8] == b"\x07\x00\x00\x80"
    assert theirs[:4] == bytes(4)
    assert not any(theirs[8:])
    log.close()
    theirs.close()
    with pytest.raises(MapError):
        DirtyLog(fd, 2 * PAGE, 0)
    os.close(fd)


@pytest.mark.parametrize("size", [0, (4 << 30) + 1, 1 << 46, 1 << 63, (1 << 64) - 1])
def test_a_dirty_log_of_a_size_that_cannot_be_is_refused_before_it_is_mapped(size: int) -> None:
    with sparse_file(1 << 47) as fd:
        with pytest.raises(MapError, match="expected 1 to"):
            DirtyLog(fd, size, 0)
        assert mapped_bytes_of(FILE) == 0
