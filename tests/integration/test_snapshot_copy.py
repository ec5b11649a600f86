"""Which pages a snapshot copies when, of a process that only has a memory file as a kernel has it.

The test writes to that file at moments of its choice; a real kernel is in tests/kernel.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.support.image_files import PAGE, read_image

from ballonet.errors import GuestError
from ballonet.guests.snapshot import Step, take_snapshot
from ballonet.guests.stopping import is_stopped
from ballonet.memory.discard import punch_hole

PAGES: Final = 12 * 256 + 5
#: Says its number, and has a memory file as a kernel has; its parent is another program.
STAND_IN: Final = """
import mmap, os, sys
fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
os.ftruncate(fd, int(sys.argv[1]))
rwx = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
memory = mmap.mmap(fd, int(sys.argv[1]), mmap.MAP_SHARED, rwx)
os.dup2(fd, 9)
print(os.getpid(), flush=True)
sys.stdin.read()
"""
PARENT: Final = 'exec 3<&0; "$@" <&3 & wait'


class StandIn:
    """The process, and its memory for the test to write to."""

    def __init__(self, pid: int) -> None:
        self.pid: Final = pid
        self.fd: Final = os.open(f"/proc/{pid}/fd/9", os.O_RDWR)

    def put(self, pfn: int, byte: int) -> None:
        os.pwrite(self.fd, bytes([byte]) * PAGE, pfn * PAGE)

    def drop(self, pfn: int) -> None:
        punch_hole(self.fd, pfn * PAGE, PAGE)

    def page(self, pfn: int) -> bytes:
        return os.pread(self.fd, PAGE, pfn * PAGE)

    def held_bytes(self) -> int:
        return os.fstat(self.fd).st_blocks * 512


@pytest.fixture
def guest() -> Iterator[StandIn]:
    python = [sys.executable, "-c", STAND_IN, str(PAGES * PAGE)]
    command = ["sh", "-c", PARENT, "sh", *python]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        made = StandIn(int(process.stdout.readline()))
        yield made
        os.close(made.fd)


def differing(guest: StandIn, path: Path) -> list[int]:
    image = read_image(path)
    assert image.memory_bytes == PAGES * PAGE
    return [pfn for pfn in range(PAGES) if image.page(pfn) != guest.page(pfn)]


def test_what_changes_while_it_is_copied_is_in_the_image_as_it_is_at_the_stop(
    guest: StandIn, tmp_path: Path
) -> None:
    for pfn in (0, 1, 2, 3, 4, 5, 300, PAGES - 1):
        guest.put(pfn, 1)
    steps: list[Step] = []

    def write(step: Step, done_pages: int, pages: int) -> None:
        if step is Step.COPY and step not in steps:  # the first piece has been copied
            guest.drop(1)
            guest.put(2, 0)
            guest.put(3, 2)
            guest.put(20, 3)  # was a hole
            guest.put(600, 4)  # in a piece that was a hole
        if step is Step.COMPARE and done_pages == pages:
            guest.drop(3)
            guest.put(4, 5)
            guest.put(5, 0)
            guest.put(1, 6)
            guest.drop(300)
        assert is_stopped(guest.pid) == (step is Step.LAST)
        steps.append(step)

    path = tmp_path / "image"
    result = take_snapshot(guest.pid, path, write)

    assert differing(guest, path) == []
    assert list(dict.fromkeys(steps)) == [Step.COPY, Step.COMPARE, Step.LAST, Step.CHECK]
    assert [one.changed_pages for one in result.passes] == [8, 5, 5]
    image = read_image(path)
    assert sorted(image.pages) == [0, 1, 4, 20, 600, PAGES - 1]
    assert result.pages == 6
    assert not is_stopped(guest.pid)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ((0, 0), [0, 0]),  # few differ
        ((1024, 5), [1024, 5]),
        ((2000, 1300, 1200, 1100), [2000, 1300, 1200, 1100]),  # as long as it becomes less
        ((PAGES, 7), [PAGES, 7]),  # the guest is as fast as we are
    ],
)
def test_passes_end_where_they_do_not_help(
    guest: StandIn, tmp_path: Path, written: tuple[int, ...], found: list[int]
) -> None:
    for pfn in range(PAGES):
        guest.put(pfn, 1)
    turns = iter(enumerate(written, 2))

    def write(step: Step, done_pages: int, pages: int) -> None:
        if done_pages == pages and step in {Step.COPY, Step.COMPARE}:
            byte, count = next(turns)
            for pfn in range(count):
                guest.put(pfn, byte)

    result = take_snapshot(guest.pid, tmp_path / "image", write)
    assert [one.changed_pages for one in result.passes] == [PAGES, *found]
    assert differing(guest, tmp_path / "image") == []


def test_no_hole_of_the_guest_is_filled(guest: StandIn, tmp_path: Path) -> None:
    guest.put(256, 1)
    before = guest.held_bytes()
    result = take_snapshot(guest.pid, tmp_path / "image")
    assert guest.held_bytes() == before == PAGE
    assert result.pages == 1
    assert result.image_bytes <= 5 * PAGE


def test_memory_that_is_no_whole_pages_is_refused(guest: StandIn, tmp_path: Path) -> None:
    for size in (0, PAGE + 1):
        os.ftruncate(guest.fd, size)
        with pytest.raises(GuestError, match="not whole pages"):
            take_snapshot(guest.pid, tmp_path / "image")
    assert not list(tmp_path.iterdir())


def test_a_child_of_the_same_program_is_refused(tmp_path: Path) -> None:
    python = [sys.executable, "-c", STAND_IN, str(PAGES * PAGE)]
    with subprocess.Popen(python, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        text = f"process {process.pid} belongs to the guest of process {os.getpid()}: name that"
        with pytest.raises(GuestError, match=text):
            take_snapshot(process.pid, tmp_path / "image")
    assert not list(tmp_path.iterdir())
