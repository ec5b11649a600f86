"""The dirty log between processes: what is marked is taken once, and nothing else is cleared."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from ballonet.memory import dirty_log
from ballonet.memory.dirty_log import DirtyLog, OwnDirtyLog

PAGE = 4096
PAGES = 96  # of three words
WRITES = 30_000

#: Writes a number to a page, then marks it, again and again; each process has pages of its own.
WRITER = f"""
import mmap, sys
import numpy as np
from ballonet.memory.dirty_log import DirtyLog
log_fd, memory_fd, first = (int(text) for text in sys.argv[1:])
memory = np.frombuffer(mmap.mmap(memory_fd, 8 * {PAGES}), np.int64)
log = DirtyLog(log_fd, {PAGE}, 0)
for number in range(1, {WRITES} + 1):
    page = (first + 2 * number) % {PAGES}
    memory[page] = number
    log.mark(page * {PAGE}, 1)
print("done", flush=True)
"""


@pytest.fixture
def log() -> Iterator[OwnDirtyLog]:
    with closing(OwnDirtyLog(PAGES * PAGE)) as made:
        yield made


def test_marks_are_taken_in_order_and_once(log: OwnDirtyLog) -> None:
    with closing(DirtyLog(log.fd, log.size, 0)) as theirs:
        for page in (70, 0, 31, 32, 70):
            theirs.mark(page * PAGE, 1)
        theirs.mark(40 * PAGE - 1, 2)
        taken = log.take()
        assert taken.dtype == np.int64
        assert taken.tolist() == [0, 31, 32, 39, 40, 70]
        assert not log.take().size
        theirs.mark(70 * PAGE, 1)
        assert log.take().tolist() == [70]


def test_our_own_marks_are_taken_too(log: OwnDirtyLog) -> None:
    log.mark(3 * PAGE, 2 * PAGE)
    assert log.take().tolist() == [3, 4]


def test_what_is_marked_between_the_look_and_the_clearing_stays(
    log: OwnDirtyLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(DirtyLog(log.fd, log.size, 0)) as theirs:
        theirs.mark(5 * PAGE, 1)
        look = np.flatnonzero

        def look_and_be_late(words: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> object:
            seen = look(words.copy())
            theirs.mark(64 * PAGE, 1)  # in another word
            return seen

        call = dirty_log._AtomicBits.call

        def call_late(bits: dirty_log._AtomicBits, operation: int, bit: int) -> object:
            if operation == dirty_log._AND_NOT and bit == 5:
                theirs.mark(6 * PAGE, 1)  # in the same word, after it was read
            return call(bits, operation, bit)

        with monkeypatch.context() as patched:
            patched.setattr(np, "flatnonzero", look_and_be_late)
            patched.setattr(dirty_log._AtomicBits, "call", call_late)
            assert log.take().tolist() == [5]
        assert log.take().tolist() == [6, 64]


def test_no_mark_of_two_processes_is_lost(log: OwnDirtyLog) -> None:
    """A page read after its mark was taken holds what was written last, or is marked again."""
    memory_fd = os.memfd_create("memory")
    os.ftruncate(memory_fd, 8 * PAGES)
    seen = np.zeros(PAGES, np.int64)

    def take() -> None:
        for page in log.take().tolist():
            seen[page] = int.from_bytes(os.pread(memory_fd, 8, 8 * page), "little")

    command = [sys.executable, "-c", WRITER, str(log.fd), str(memory_fd)]
    writers = [
        subprocess.Popen(
            [*command, str(first)], pass_fds=(log.fd, memory_fd), stdout=subprocess.PIPE
        )
        for first in (0, 1)
    ]
    while any(writer.poll() is None for writer in writers):
        take()
    for writer in writers:
        assert writer.communicate()[0] == b"done\n"
    take()
    written = np.frombuffer(os.pread(memory_fd, 8 * PAGES, 0), np.int64)
    os.close(memory_fd)
    assert written.min() > WRITES - PAGES
    assert np.array_equal(seen, written)


def test_more_pages_than_calls_are_kept_for_are_marked_all_the_same() -> None:
    pages = dirty_log._CALLS_MAX + 40
    with closing(OwnDirtyLog(pages * PAGE)) as log:
        log.mark(0, pages * PAGE)
        log.mark(0, PAGE)
        assert log.take().tolist() == list(range(pages))


@pytest.mark.parametrize(
    ("end", "size"), [(0, 4096), (1, 4096), (1 << 27, 4096), ((1 << 27) + 1, 8192)]
)
def test_a_log_has_a_bit_for_every_page(end: int, size: int) -> None:
    with closing(OwnDirtyLog(end)) as log:
        assert log.size == size


def test_nobody_can_cut_a_log_of_ours_short(log: OwnDirtyLog) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(log.fd, 0)
