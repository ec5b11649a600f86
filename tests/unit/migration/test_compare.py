"""Which pages differ from their copy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ballonet.errors import SystemCallError
from ballonet.memory.discard import punch_hole
from ballonet.memory.held_pages import held_pages
from ballonet.migration.compare import PIECE_PAGES, CompareTracker, FilePages, pieces_with

PAGE: Final = 4096
PAGES: Final = 2 * PIECE_PAGES + 7  #: the last piece is short
Bools = NDArray[np.bool_]
Sparse = dict[int, bytes]

FILLED = bytes([1]) * PAGE
ENDS = bytes(PAGE - 1) + b"\1"  # differs from zeros only in its last byte
pages = st.dictionaries(st.integers(0, PAGES - 1), st.sampled_from([FILLED, ENDS, bytes(PAGE)]))


class Files:
    """Memory and copy, as files without a name."""

    def __init__(self) -> None:
        self.memory, self.copy = os.memfd_create("memory"), os.memfd_create("copy")
        self.there = np.zeros(PAGES, np.bool_)
        for fd in (self.memory, self.copy):
            os.ftruncate(fd, PAGES * PAGE)

    def put(self, fd: int, contents: Sparse) -> None:
        for pfn, page in contents.items():
            os.pwrite(fd, page, pfn * PAGE)
            if fd == self.copy:
                self.there[pfn] = True

    def scan(self) -> Bools:
        memory, copy = FilePages(self.memory, PAGES, "memory"), FilePages(self.copy, PAGES, "copy")
        return CompareTracker(memory, copy, lambda: self.there).scan()

    def close(self) -> None:
        os.close(self.memory)
        os.close(self.copy)


@pytest.fixture
def files() -> Iterator[Files]:
    made = Files()
    yield made
    made.close()


def held_bytes(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


@given(pages, pages)
def test_exactly_the_pages_that_differ_are_found(memory: Sparse, copy: Sparse) -> None:
    files = Files()
    files.put(files.memory, memory)
    files.put(files.copy, copy)
    zeros = bytes(PAGE)
    expected = [pfn for pfn in range(PAGES) if memory.get(pfn, zeros) != copy.get(pfn, zeros)]
    before = held_bytes(files.memory)
    assert np.flatnonzero(files.scan()).tolist() == expected
    assert held_bytes(files.memory) == before  # no hole was filled
    files.close()


def test_a_page_that_became_a_hole_differs_from_its_copy(files: Files) -> None:
    files.put(files.memory, {5: FILLED, 6: FILLED})
    files.put(files.copy, {5: FILLED, 6: FILLED})
    assert not files.scan().any()
    punch_hole(files.memory, 5 * PAGE, PAGE)
    assert np.flatnonzero(files.scan()).tolist() == [5]


def test_what_stands_in_the_file_of_a_copy_where_no_page_is_there_is_zeros(files: Files) -> None:
    files.put(files.copy, {5: FILLED, 6: FILLED, PIECE_PAGES: FILLED})
    files.there[[5, PIECE_PAGES]] = False
    assert np.flatnonzero(files.scan()).tolist() == [6]


def test_the_same_bytes_written_again_are_no_difference_so_it_sees_no_writes(files: Files) -> None:
    files.put(files.memory, {5: FILLED})
    files.put(files.copy, {5: FILLED})
    files.put(files.memory, {5: FILLED})
    assert not files.scan().any()
    assert CompareTracker.sees_writes is False


def test_memory_that_was_cut_short_is_an_error_and_not_zeros(files: Files) -> None:
    files.put(files.memory, {0: FILLED})
    files.put(files.copy, {1: FILLED, PIECE_PAGES: FILLED})
    os.ftruncate(files.memory, PAGE)
    with pytest.raises(SystemCallError, match="reading memory: it was cut short"):
        files.scan()


def test_a_descriptor_that_cannot_be_read_is_an_error_by_name(files: Files) -> None:
    ours, theirs = os.pipe()
    try:
        tracker = CompareTracker(
            FilePages(ours, PAGES, "memory"),
            FilePages(files.copy, PAGES, "copy"),
            lambda: files.there,
        )
        with pytest.raises(SystemCallError, match="reading memory: Illegal seek"):
            tracker.scan()
    finally:
        os.close(ours)
        os.close(theirs)


@given(st.lists(st.booleans(), max_size=3 * PIECE_PAGES))
def test_pieces_cover_all_that_is_wanted_and_nothing_twice(flags: list[bool]) -> None:
    wanted = np.array(flags, np.bool_)
    found = list(pieces_with(wanted))
    covered = [at for piece in found for at in range(piece.start, piece.stop)]
    assert covered == sorted(set(covered))
    assert set(np.flatnonzero(wanted).tolist()) <= set(covered)
    assert all(wanted[piece].any() for piece in found)


def holes_by_a_loop(fd: int, offset: int, count: int) -> list[bool]:
    """By SEEK_DATA from each page on, the slow way."""
    found = []
    for at in range(offset, offset + count * PAGE, PAGE):
        try:
            found.append(os.lseek(fd, at, os.SEEK_DATA) < at + PAGE)
        except OSError:
            found.append(False)
    return found


@given(pages, st.integers(0, PAGES - 1))
def test_held_pages_are_those_with_data_behind_them(contents: Sparse, first: int) -> None:
    files = Files()
    files.put(files.memory, contents)
    count = PAGES - first + 3  # also behind the end
    held = held_pages(files.memory, count, first * PAGE)
    assert held.tolist() == holes_by_a_loop(files.memory, first * PAGE, count)
    files.close()


def test_data_is_held_wherever_it_ends(files: Files) -> None:
    os.ftruncate(files.memory, 0)
    os.pwrite(files.memory, b"x", 3 * PAGE)
    assert np.flatnonzero(held_pages(files.memory, 8)).tolist() == [3]
