"""A Linux guest with its console on the terminal of whoever started it.

Between the two stands a pseudo-terminal of ours, so that the guest never changes the user's own
terminal: Ctrl-C reaches the guest's shell, and whatever happens the terminal is as before.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ballonet.errors import GuestError
from ballonet.guests.kernel_package import find_kernel_package
from ballonet.guests.kernel_process import LinuxGuestSettings, kernel_arguments, start_kernel
from ballonet.guests.linux import make_guest_directory
from ballonet.guests.processes import end_guest

__all__ = ["interact"]

_END_OF_INPUT: Final = (
    b"\n\x04"  # an ended line, then Ctrl-D: the guest's shell ends, and the guest powers itself off
)
_READY: Final = b"\nLinux "  # what the guest's init says before it reads the console
_HALTED: Final = b"reboot: System halted"  # the kernel's last words
_HALT_TURNS: Final = 10  # of half a second; a kernel that has halted may still hang or abort
_CHUNK: Final = 1 << 14
_PIECE: Final = 256  # far below what a terminal holds, so that the guest loses nothing


def interact(settings: LinuxGuestSettings) -> int:
    """Boot a guest and talk to it on standard input and output until it powers off.

    Returns the kernel's exit code, 128 and more if a signal ended it; 0 once it has halted.
    Raises: GuestError.
    """
    if sys.stdin is None:
        raise GuestError("standard input is closed")
    package = find_kernel_package()
    with make_guest_directory(package) as directory:
        ours, theirs = pty.openpty()
        tty.setraw(theirs)  # the guest has a terminal discipline of its own
        with os.fdopen(ours, "r+b", buffering=0):
            process = start_kernel(
                [
                    package.kernel,
                    *kernel_arguments(settings, directory),
                    "con0=fd:0,fd:1",
                    "quiet",
                    f"BALLONET_MODE={'console' if sys.stdin.isatty() else 'script'}",
                ],
                directory,
                stdin=theirs,
                output=theirs,
            )
            os.close(theirs)
            try:
                with _raw_terminal(sys.stdin.fileno()):
                    has_halted = _relay(ours, process)
                code = 0 if has_halted else process.wait()
                return code if code >= 0 else 128 - code
            finally:
                end_guest(process, directory)


class _Output:
    """What the guest has said, as far as it matters here."""

    def __init__(self) -> None:
        self.is_ready = False  #: the guest takes what is typed
        self.has_halted = False  #: its last words were that it has halted
        self._seen = b""
        self._quiet_turns = 0

    def take(self, data: bytes) -> None:
        self._seen = (self._seen + data)[-_CHUNK:]
        self._quiet_turns = 0
        self.is_ready = self.is_ready or _READY in self._seen
        self.has_halted = self._seen.rstrip().endswith(_HALTED)

    def is_over(self) -> bool:
        """Called where nothing came: the guest halted a while ago, and its kernel hangs."""
        self._quiet_turns += 1
        return self.has_halted and self._quiet_turns >= _HALT_TURNS


def _relay(guest_fd: int, process: subprocess.Popen[bytes]) -> bool:
    """Carry bytes both ways until the guest's side is closed; returns whether it said it halted.

    What was typed waits here until the guest takes it, and its output is read meanwhile.
    """
    source, sink = sys.stdin.fileno(), sys.stdout.fileno()
    os.set_blocking(guest_fd, False)
    output, ended, typed = _Output(), False, b""
    while True:
        # The kernel throws away what is typed before it is ready.
        wants_input = output.is_ready and not ended and not typed
        readable, writable, _ = select.select(
            [guest_fd, source] if wants_input else [guest_fd], [guest_fd] if typed else [], [], 0.5
        )
        if guest_fd in readable:
            try:
                data = os.read(guest_fd, _CHUNK)
            except OSError:  # EIO: nobody has the other end open any more
                return output.has_halted
            os.write(sink, data)
            output.take(data)
        elif process.poll() is not None or output.is_over():
            return output.has_halted
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
