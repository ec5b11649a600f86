"""Memory tables: taken whole or not at all, measured once, and logged when dirty."""

from __future__ import annotations

import mmap
import os

import pytest

from ballonet.errors import MapError, SessionError
from ballonet.memory.dirty_log import DirtyLog
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.regions import Region

PAGE = 4096
PAGES = 256
SIZE = PAGES * PAGE


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
