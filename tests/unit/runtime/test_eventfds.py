"""Signals that never wait, whatever their owner does to the descriptor."""

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from tests.support.wait import PATIENCE_S

from ballonet.runtime.eventfds import is_eventfd, signal_eventfd

FULL = 2**64 - 2  #: a write of one more waits, or fails with EAGAIN


@pytest.fixture
def blocking_fd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


def signal_often(fd: int, times: int) -> None:
    for _ in range(times):
        signal_eventfd(fd)


def test_each_signal_adds_one(blocking_fd: int) -> None:
    signal_often(blocking_fd, 1000)
    assert os.eventfd_read(blocking_fd) == 1000


def test_a_full_counter_that_blocks_is_left_as_it_is(blocking_fd: int) -> None:
    os.eventfd_write(blocking_fd, FULL)
    done = threading.Thread(target=signal_often, args=(blocking_fd, 1000), daemon=True)
    done.start()
    done.join(PATIENCE_S)
    assert not done.is_alive()
    assert os.get_blocking(blocking_fd)  # the owner's flags are the owner's
    assert os.eventfd_read(blocking_fd) >= FULL


def test_a_child_signals_as_its_parent_does(blocking_fd: int) -> None:
    signal_eventfd(blocking_fd)
    pid = os.fork()
    if not pid:
        try:
            signal_eventfd(blocking_fd)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.eventfd_read(blocking_fd) == 2


def test_threads_that_signal_at_once_lose_nothing(blocking_fd: int) -> None:
    threads = [threading.Thread(target=signal_often, args=(blocking_fd, 500)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.eventfd_read(blocking_fd) == 2000


def test_what_is_no_eventfd_is_left_alone() -> None:
    read_fd, write_fd = os.pipe()
    memory_fd = os.memfd_create("anon_inode:[eventfd]")
    try:
        assert not any(is_eventfd(fd) for fd in (read_fd, write_fd, memory_fd))
    finally:
        for fd in (read_fd, write_fd, memory_fd):
            os.close(fd)


def test_a_thread_that_has_no_descriptor_left_signals_all_the_same(blocking_fd: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        thread = threading.Thread(target=signal_often, args=(blocking_fd, 3))
        thread.start()
        thread.join()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.eventfd_read(blocking_fd) == 3


def test_threads_and_a_program_that_have_signalled_end_without_a_word_or_a_trace() -> None:
    script = """
import os, threading
from ballonet.runtime.eventfds import signal_eventfd
fd = os.eventfd(0)
def open_fds(): return len(os.listdir("/proc/self/fd"))
before = open_fds()
for _ in range(10):
    thread = threading.Thread(target=signal_eventfd, args=(fd,))
    thread.start()
    thread.join()
assert open_fds() == before, "descriptors are left"
assert "[aio]" not in open("/proc/self/maps").read(), "contexts are left"
signal_eventfd(fd)
assert os.eventfd_read(fd) == 11
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
