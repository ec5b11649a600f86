"""Guest memory in a file: read without filling its holes, written page by page."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.migration.stream_under_test import make_runs, page

from ballonet.errors import MigrationError, SystemCallError, UsageError
from ballonet.memory.regions import Region
from ballonet.migration.memory_file import MemoryFile

PAGE = 4096


@pytest.fixture
def fd() -> Iterator[int]:
    """16 pages, all holes."""
    made = os.memfd_create("memory")
    os.ftruncate(made, 16 * PAGE)
    yield made
    os.close(made)


@pytest.fixture
def memory(fd: int) -> MemoryFile:
    """Pages 100 to 107 in the second half of the file, pages 0 to 3 in its beginning."""
    return MemoryFile(
        [(Region(100 * PAGE, 8 * PAGE, 0, 8 * PAGE), fd), (Region(0, 4 * PAGE, 1 << 40, 0), fd)]
    )


def held_pages(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512 // PAGE


def test_pages_go_where_their_region_is(memory: MemoryFile, fd: int) -> None:
    memory.write(make_runs((1, 2), (106, 1)), memoryview(page(1) + page(2) + page(3)))
    assert os.pread(fd, 4 * PAGE, 0) == page(0) + page(1) + page(2) + page(0)
    assert os.pread(fd, PAGE, 14 * PAGE) == page(3)
    assert held_pages(fd) == 3
    buffer = memoryview(bytearray(3 * PAGE))
    memory.read(make_runs((2, 1), (105, 2)), buffer)
    assert bytes(buffer) == page(2) + page(0) + page(3)


def test_reading_holes_fills_none(memory: MemoryFile, fd: int) -> None:
    buffer = memoryview(bytearray(b"x" * 12 * PAGE))
    memory.read(make_runs((0, 4), (100, 8)), buffer)
    assert bytes(buffer) == bytes(12 * PAGE)
    assert held_pages(fd) == 0


def test_holes_are_holes_afterwards(memory: MemoryFile, fd: int) -> None:
    memory.write(make_runs((0, 4)), memoryview(page(7) * 4))
    memory.make_holes(make_runs((1, 2), (104, 4)))
    assert held_pages(fd) == 2
    assert os.pread(fd, 4 * PAGE, 0) == page(7) + page(0) * 2 + page(7)


def test_a_file_that_was_cut_short_is_not_read_as_less(memory: MemoryFile, fd: int) -> None:
    os.ftruncate(fd, 2 * PAGE)
    with pytest.raises(MigrationError, match="ends after"):
        memory.read(make_runs((1, 2)), memoryview(bytearray(2 * PAGE)))


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(PAGE)
    fd = os.open(path, os.O_RDONLY)
    try:
        memory = MemoryFile([(Region(0, PAGE, 0, 0), fd)])
        with pytest.raises(SystemCallError, match="writing"):
            memory.write(make_runs((0, 1)), memoryview(page(1)))
        with pytest.raises(SystemCallError, match="emptying"):
            memory.make_holes(make_runs((0, 1)))
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [PAGE, 3 * PAGE])
def test_data_of_another_size_than_its_pages_is_a_bug_of_the_caller(
    memory: MemoryFile, size: int
) -> None:
    with pytest.raises(UsageError):
        memory.write(make_runs((0, 2)), memoryview(bytes(size)))


def test_pages_outside_are_a_bug_of_the_caller(memory: MemoryFile) -> None:
    with pytest.raises(UsageError):
        memory.make_holes(make_runs((4, 1)))
