"""Files behind guest memory: each looked at once, and never very many."""

import fcntl
import os
from collections.abc import Iterator

import pytest

from ballonet.errors import MapError
from ballonet.memory.guest_files import FILES_PER_LOOK, FileUse, GuestFiles

SIZE = 1 << 20


@pytest.fixture
def fds() -> Iterator[list[int]]:
    """Memory files of 1 MiB, more than one look takes."""
    made = [os.memfd_create(f"f{i}", os.MFD_ALLOW_SEALING) for i in range(3 * FILES_PER_LOOK)]
    for fd in made:
        os.ftruncate(fd, SIZE)
    yield made
    for fd in made:
        os.close(fd)


def uses(fds: list[int]) -> list[FileUse]:
    return [FileUse(fd, SIZE, gpa=i * SIZE) for i, fd in enumerate(fds)]


def test_files_that_cover_their_regions_are_fine(fds: list[int]) -> None:
    files = GuestFiles(uses(fds))
    assert [files.find_cut_short() for _ in range(10)] == [None] * 10


@pytest.mark.parametrize("number", range(3 * FILES_PER_LOOK))
def test_one_file_cut_short_among_many_is_found_within_a_few_looks(
    fds: list[int], number: int
) -> None:
    files = GuestFiles(uses(fds))
    os.ftruncate(fds[number], SIZE - 1)
    found = [files.find_cut_short() for _ in range(3)]
    assert FileUse(fds[number], SIZE, number * SIZE) in found


def test_of_a_real_guest_every_file_is_looked_at_every_time(fds: list[int]) -> None:
    files = GuestFiles(uses(fds[:FILES_PER_LOOK]))
    os.ftruncate(fds[3], 0)
    for _ in range(20):
        assert files.find_cut_short() == FileUse(fds[3], SIZE, 3 * SIZE)


def test_regions_of_one_file_are_looked_at_once_and_by_the_last_of_them(fds: list[int]) -> None:
    regions = [FileUse(fds[0], (i + 1) * SIZE // 512, i) for i in range(509)]
    files = GuestFiles(regions)
    os.ftruncate(fds[0], 509 * SIZE // 512 - 1)
    assert files.find_cut_short() == regions[-1]


def test_a_file_sealed_against_shrinking_needs_no_look(fds: list[int]) -> None:
    fcntl.fcntl(fds[0], fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    files = GuestFiles([FileUse(fds[0], 2 * SIZE, 0)])  # would be found if it were looked at
    assert files.find_cut_short() is None


def test_each_file_counts_once_for_what_the_host_holds(fds: list[int]) -> None:
    os.pwrite(fds[0], bytes(8192), 0)
    os.pwrite(fds[1], bytes(4096), 0)
    files = GuestFiles([*uses(fds[:2]), FileUse(fds[0], 4096, 7 * SIZE)])
    assert files.held_bytes() == 12288


def test_a_file_that_cannot_be_looked_at_is_an_error_of_its_own() -> None:
    with pytest.raises(MapError, match="looking at the file of guest memory 0x1000"):
        GuestFiles([FileUse(-1, SIZE, 0x1000)])
