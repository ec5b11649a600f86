"""Signals of a process that was forked by one that has signalled."""

from __future__ import annotations

import os

from ballonet.runtime.eventfds import signal_eventfd


def test_a_child_closes_nothing_of_its_own_when_it_signals_for_the_first_time() -> None:
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    signal_eventfd(eventfd)
    pid = os.fork()
    if pid == 0:  # every descriptor the parent's context may have is something else here
        kept = [fd for fd in range(3, 64) if fd != eventfd]
        for fd in kept:
            os.dup2(2, fd)
        signal_eventfd(eventfd)
        lost = [fd for fd in kept if not _is_open(fd)]
        os._exit(len(lost))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert os.eventfd_read(eventfd) == 2
    os.close(eventfd)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
