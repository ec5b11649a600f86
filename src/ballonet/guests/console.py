"""A Linux guest with its console on the terminal of whoever started it.

Between the two stands a pseudo-terminal of ours, so that the guest never changes the user's own
terminal: Ctrl-C reaches the guest's shell, and whatever happens the terminal is as before.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ballonet.guests.kernel_package import find_kernel_package
from ballonet.guests.linux import LinuxGuestSettings, kernel_arguments, make_guest_directory
from ballonet.guests.processes import dismiss, end_guest, watch_over

__all__ = ["interact"]

_END_OF_INPUT: Final = (
    b"\n\x04"  # an ended line, then Ctrl-D: the guest's shell ends, and the guest powers itself off
)
_READY: Final = b"\nLinux "  # what the guest's init says before it reads the console
_CHUNK: Final = 1 << 14


def interact(settings: LinuxGuestSettings) -> int:
    """Boot a guest and talk to it on standard input and output until it powers off.

    Returns the kernel's exit code.  Raises: GuestError.
    """
    package = find_kernel_package()
    directory = make_guest_directory(package)
    try:
        ours, theirs = pty.openpty()
        tty.setraw(theirs)  # the guest has a terminal discipline of its own
        with os.fdopen(ours, "r+b", buffering=0):
            process = subprocess.Popen(
                [
                    package.kernel,
                    *kernel_arguments(settings, directory),
                    "con0=fd:0,fd:1",
                    "quiet",
                    f"BALLONET_MODE={'console' if sys.stdin.isatty() else 'script'}",
                ],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, "TMPDIR": str(directory)},
                start_new_session=True,
            )
            watcher = watch_over(directory)
            os.close(theirs)
            try:
                with _raw_terminal(sys.stdin.fileno()):
                    _relay(ours, process)
                return process.wait()
            finally:
                end_guest(process, directory)
                dismiss(watcher)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _relay(guest_fd: int, process: subprocess.Popen[bytes]) -> None:
    """Carry bytes both ways until the guest's side is closed."""
    source, sink = sys.stdin.fileno(), sys.stdout.fileno()
    watched, seen = [guest_fd], b""
    while True:
        readable, _, _ = select.select(watched, [], [], 0.5)
        if guest_fd in readable:
            try:
                data = os.read(guest_fd, _CHUNK)
            except OSError:  # EIO: nobody has the other end open any more
                return
            os.write(sink, data)
            if _READY not in seen:  # the kernel throws away what is typed before
                seen += data
                watched += [source] if _READY in seen else []
        elif process.poll() is not None:
            return
        if source in readable:
            typed = os.read(source, _CHUNK)
            os.write(guest_fd, typed or _END_OF_INPUT)
            if not typed:
                watched.remove(source)


@contextmanager
def _raw_terminal(fd: int) -> Iterator[None]:
    """Pass every key on as it is typed; the terminal's settings come back afterwards."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSAFLUSH, before)
