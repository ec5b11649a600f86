"""Memory of every kind the device can free: really freed, reading as zero, the rest untouched."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ballonet.errors import MapError, SessionError
from ballonet.memory.dirty_log import DirtyLog
from ballonet.memory.mapping import GuestMemory, MappedRegion
from ballonet.memory.regions import Region
from ballonet.memory.runs import locate

PAGE = 4096
PAGES = 256
SIZE = PAGES * PAGE


def resident_bytes(memory: GuestMemory) -> int:
    """What this process keeps in memory of the mapping, by the kernel's word."""
    base = np.frombuffer(memory.view(0, SIZE), np.uint8).ctypes.data
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= base < int(found[2], 16)
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the mapping is not in /proc/self/smaps")


def memfd_memory(_: Path) -> GuestMemory:
    fd = os.memfd_create("guest")
    return file_memory(fd)


def tmpfs_memory(_: Path) -> GuestMemory:
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)
    return file_memory(fd)


def disk_memory(folder: Path) -> GuestMemory:
    return file_memory(os.open(folder / "guest", os.O_CREAT | os.O_RDWR))


def file_memory(fd: int) -> GuestMemory:
    os.ftruncate(fd, SIZE + 2 * PAGE)
    memory = GuestMemory()
    memory.replace([Region(0, SIZE, 0, file_offset=2 * PAGE)], [fd])
    os.close(fd)
    return memory


def shared_anonymous(_: Path) -> GuestMemory:
    return GuestMemory([MappedRegion.anonymous(Region(0, SIZE, 0, 0), shared=True)])


def private_anonymous(_: Path) -> GuestMemory:
    return GuestMemory([MappedRegion.anonymous(Region(0, SIZE, 0, 0), shared=False)])


@pytest.mark.parametrize(
    "make", [memfd_memory, tmpfs_memory, disk_memory, shared_anonymous, private_anonymous]
)
def test_discarded_pages_are_freed_and_read_as_zero_and_no_other_byte_changes(
    make: Callable[[Path], GuestMemory], tmp_path: Path
) -> None:
    memory = make(tmp_path)
    before = np.random.default_rng(1).integers(1, 255, SIZE, np.uint8)
    memory.view(0, SIZE)[:] = before.tobytes()
    measure = memory.held_bytes if memory.held_bytes() else lambda: resident_bytes(memory)
    held = measure()
    gone = np.r_[3:40, 100, 102, 200:256]

    located = locate(gone.astype(np.uint32), memory.table)
    results = [memory.discard(ranges) for ranges in located.ranges]

    assert measure() <= held - len(gone) * PAGE
    assert sum(result.discarded_bytes for result in results) == len(gone) * PAGE
    assert [result.error for result in results] == [None]
    expected = before.reshape(PAGES, PAGE).copy()
    expected[gone] = 0
    assert bytes(memory.view(0, SIZE)) == expected.tobytes()
    memory.close()


def test_a_file_that_is_too_short_read_only_or_sealed_is_refused(tmp_path: Path) -> None:
    memory = GuestMemory()
    short = os.memfd_create("short")
    os.ftruncate(short, SIZE - 1)
    (tmp_path / "file").write_bytes(bytes(SIZE))
    read_only = os.open(tmp_path / "file", os.O_RDONLY)
    for fd in (short, read_only):
        with pytest.raises(MapError):
            memory.replace([Region(0, SIZE, 0, 0)], [fd])
        os.close(fd)
    assert memory.total_bytes == 0


def test_a_refused_table_leaves_the_old_one_mapped() -> None:
    memory = memfd_memory(Path())
    memory.view(0, 4)[:] = b"kept"
    with pytest.raises(SessionError):
        memory.replace([Region(0, SIZE, 0, 0), Region(PAGE, SIZE, 1 << 40, 0)], [-1, -1])
    assert bytes(memory.view(0, 4)) == b"kept"
    memory.close()


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
