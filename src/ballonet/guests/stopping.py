"""A User-Mode Linux that stands still for a while, and goes on for certain.

Only the kernel's own process is stopped: it traces the processes of the guest's programs, and would
take SIGSTOP to one of them for something that happened in the guest.  A program that runs just then
comes to its next system call or fault, and stays there, because only its tracer can send it on.
That may never be, so it is sent SIGALRM, as the kernel does at each tick to get its processor back:
the kernel finds it when it goes on, and takes it for its own.
Whatever happens to us the kernel goes on: a watcher sees to it, which sleeps on a pipe whose other
end only we hold.
Source: ptrace(2) group-stop; proc(5) stat; Linux arch/um/kernel/time.c um_timer, which calls
os_alarm_process, and arch/um/os-Linux/skas/process.c, which expects that signal in every wait.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError

__all__ = ["is_stopped", "stopped"]

_STOPPED, _ZOMBIE = "T", "Z"
_RUNNING: Final = {"R", "D"}
_LOOK_S: Final = 0.001
_STILL_WITHIN_S: Final = 10.0
#: A word instead of the end of its input: all is well. The number cannot be another process's yet,
#: unless the guest ended at the same moment, and SIGCONT does nothing to a process that runs.
_WATCHER: Final = 'read -r _ || kill -s CONT "$0"'


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a kernel and all its processes still for the block.

    One that was stopped before by somebody else stays so.
    Raises: GuestError, if it is gone or cannot be stopped; it goes on then, too.
    """
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        raise GuestError(f"process {pid} cannot be stopped: {error.strerror}") from error
    try:
        if is_stopped(pid):
            _wait_until_still(pid)
            yield
            return
        watcher = subprocess.Popen(
            ["sh", "-c", _WATCHER, str(pid)], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            _send(handle, pid, signal.SIGSTOP)
            _wait_until_still(pid)
            yield
        finally:
            # Where another signal keeps us from this line, the watcher does it when we end.
            with suppress(GuestError):
                _send(handle, pid, signal.SIGCONT)
            watcher.communicate(b"\n")
    finally:
        os.close(handle)


def is_stopped(pid: int) -> bool:
    """The process was sent a signal that stops it."""
    return _look_at(pid)[0] == _STOPPED


def _running_children(parent_pid: int) -> list[int]:
    """Processes whose parent it is, and which run."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    looks = ((pid, *_look_at(pid)) for pid in pids)
    return [pid for pid, state, parent in looks if parent == parent_pid and state in _RUNNING]


def _interrupt(child_pid: int, kernel_pid: int) -> None:
    """Have a program of the guest come back to its kernel, if it is one: helpers are not traced."""
    with suppress(OSError):
        if f"\nTracerPid:\t{kernel_pid}\n" in Path(f"/proc/{child_pid}/status").read_text():
            os.kill(child_pid, signal.SIGALRM)


def _look_at(pid: int) -> tuple[str, int]:
    """State and parent of a process; "" and 0 of one that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", 0
    state, parent, *_ = text.rpartition(")")[2].split()
    return state, int(parent)


def _send(handle: int, pid: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(handle, number)
    except OSError as error:
        raise GuestError(f"process {pid} cannot be sent {number.name}: {error.strerror}") from error


def _wait_until_still(pid: int) -> None:
    """Return when neither the kernel nor a child of it runs, nor can again. Raises: GuestError.

    A child can make another before it stops, where we have looked already: so look twice.
    """
    end_s = time.monotonic() + _STILL_WITHIN_S
    looks = 0
    while looks < 2:
        state, _ = _look_at(pid)
        if state in {"", _ZOMBIE}:
            raise GuestError(f"process {pid} is gone")
        children = _running_children(pid)
        if state == _STOPPED and not children:
            looks += 1
            continue
        if time.monotonic() > end_s:
            raise GuestError(f"process {pid} or one of its children does not stop")
        for child in children if state == _STOPPED else ():
            _interrupt(child, pid)
        looks = 0
        time.sleep(_LOOK_S)
