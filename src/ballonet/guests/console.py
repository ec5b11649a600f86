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

from ballonet.errors import GuestError
from ballonet.guests.kernel_package import find_kernel_package
from ballonet.guests.linux import LinuxGuestSettings, kernel_arguments, make_guest_directory
from ballonet.guests.processes import dismiss, end_guest, watch_over

__all__ = ["interact"]

_END_OF_INPUT: Final = (
    b"\n\x04"  # an ended line, then Ctrl-D: the guest's shell ends, and the guest powers itself off
)
_READY: Final = b"\nLinux "  # what the guest's init says before it reads the console
_CHUNK: Final = 1 << 14
_PIECE: Final = 256  # far below what a terminal holds, so that the guest loses nothing


def interact(settings: LinuxGuestSettings) -> int:
    """Boot a guest and talk to it on standard input and output until it powers off.

    Returns the kernel's exit code.  Raises: GuestError.
    """
    if sys.stdin is None:
        raise GuestError("standard input is closed")
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
    """Carry bytes both ways until the guest's side is closed.

    What was typed waits here until the guest takes it, and its output is read meanwhile.
    """
    source, sink = sys.stdin.fileno(), sys.stdout.fileno()
    os.set_blocking(guest_fd, False)
    ready, ended, seen, typed = False, False, b"", b""
    while True:
        wants_input = ready and not ended and not typed
        readable, writable, _ = select.select(
            [guest_fd, source] if wants_input else [guest_fd], [guest_fd] if typed else [], [], 0.5
        )
        if guest_fd in readable:
            try:
                data = os.read(guest_fd, _CHUNK)
            except OSError:  # EIO: nobody has the other end open any more
                return
            os.write(sink, data)
            seen = b"" if ready else seen + data
            ready = ready or _READY in seen  # the kernel throws away what is typed before
        elif process.poll() is not None:
            return
        if source in readable:
            typed = os.read(source, _CHUNK)
            ended = not typed
            typed = typed or _END_OF_INPUT
        if writable:
            with suppress(BlockingIOError):
                typed = typed[os.write(guest_fd, typed[:_PIECE]) :]


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
