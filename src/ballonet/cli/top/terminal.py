"""The terminal of a program that has all of it, left as it was on every way out.

It is opened anew, so that nothing has to wait for it: one that stands still, behind a connection
that is stalled, holds up neither this program's other work nor its end.  While the program is
stopped, or in the background, the terminal is its shell's.
Source: termios(3), console_codes(4), xterm's ctlseqs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from select import select
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from ballonet.cli.top.keys import KeyReader
from ballonet.errors import SystemCallError

__all__ = ["HANG_UP", "Terminal", "TerminalUser"]

#: Another screen, no cursor, and lines that are too long end at the edge.
_ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE: Final = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
#: How long the rest of a key may be on its way.
_KEY_S: Final = 0.05
#: A terminal that takes nothing for so long does not get our last words.
_LEAVE_S: Final = 1.0
_UNKNOWN_SIZE: Final = os.terminal_size((80, 24))
_READ_BYTES: Final = 4096
#: What is told like a key when the terminal is gone.
HANG_UP: Final = "hang up"


class TerminalUser(NamedTuple):
    """Who is told what happens."""

    on_key: Callable[[str], None]
    on_change: Callable[[], None]  #: all has to be drawn anew: another size, or another's screen
    on_ready: Callable[[], None]  #: it takes more again


class Terminal:
    """A context manager, in a running loop."""

    def __init__(self, user: TerminalUser) -> None:
        self._user = user
        self._fd = -1
        self._settings: list[Any] = []  # to be put back
        self._is_ours = False
        self._keys = KeyReader()
        self._unsent = b""
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        """Raises: SystemCallError, if there is no terminal."""
        self._fd = _open_terminal()
        self._settings = termios.tcgetattr(self._fd)
        self._take()
        self._loop.add_signal_handler(signal.SIGWINCH, self._user.on_change)
        self._loop.add_signal_handler(signal.SIGTSTP, self._stop)
        self._loop.add_signal_handler(signal.SIGCONT, self._go_on)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        for number in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT):
            self._loop.remove_signal_handler(number)
        self._give_back()
        os.close(self._fd)

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines of the moment."""
        with suppress(OSError):
            size = os.get_terminal_size(self._fd)
            if size.columns and size.lines:
                return size
        return _UNKNOWN_SIZE

    @property
    def takes_more(self) -> bool:
        """It is ours, and has taken all that was written."""
        return self._is_ours and not self._unsent

    def write(self, data: bytes) -> None:
        """Have it shown; whoever writes looks first whether the terminal takes more."""
        self._unsent += data
        if not self._send():
            self._loop.add_writer(self._fd, self._send_rest)

    def _send(self) -> bool:
        """As much as is taken now; whether that was all."""
        try:
            self._unsent = self._unsent[os.write(self._fd, self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:  # it is gone
            self._unsent = b""
        return not self._unsent

    def _send_rest(self) -> None:
        if self._send():
            self._loop.remove_writer(self._fd)
            self._user.on_ready()

    def _read(self) -> None:
        data = b""
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            pass
        if not data:
            self._loop.remove_reader(self._fd)
            self._user.on_key(HANG_UP)
            return
        for key in self._keys.feed(data):
            self._user.on_key(key)
        if self._keys.waits:
            self._loop.call_later(_KEY_S, self._flush_keys)

    def _flush_keys(self) -> None:
        for key in self._keys.flush():
            self._user.on_key(key)

    def _take(self) -> None:
        """Have it, unless it is another's now: whoever takes it from the background is stopped."""
        if not self._is_foreground():
            return
        termios.tcsetattr(self._fd, termios.TCSANOW, _raw(self._settings))
        self._is_ours = True
        self._loop.add_reader(self._fd, self._read)
        self.write(_ENTER)

    def _give_back(self) -> None:
        if not self._is_ours:
            return
        self._is_ours = False
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._unsent += _LEAVE
        end_s = time.monotonic() + _LEAVE_S
        while not self._send() and (left_s := end_s - time.monotonic()) > 0:
            select([], [self._fd], [], left_s)
        self._unsent = b""
        with suppress(termios.error):  # it is gone
            if self._is_foreground():
                termios.tcsetattr(self._fd, termios.TCSANOW, self._settings)

    def _stop(self) -> None:
        """As a shell expects it of Ctrl-Z."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _go_on(self) -> None:
        """Whoever had the terminal meanwhile has left it as they like."""
        self._take()
        self._user.on_change()

    def _is_foreground(self) -> bool:
        """Its shell has handed it to us, or there is no shell that does such things."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return True


def _open_terminal() -> int:
    """Standard output's, or that of this session. Raises: SystemCallError."""
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY
    with suppress(OSError):  # after `su` it may be another user's
        return os.open(os.ttyname(sys.stdout.fileno()), flags)
    try:
        return os.open("/dev/tty", flags)
    except OSError as error:
        raise SystemCallError("open", "/dev/tty", error.strerror or str(error)) from error


def _raw(settings: list[Any]) -> list[Any]:
    """Keys come at once and are not shown; Ctrl-C and Ctrl-Z do what they always do."""
    iflag, oflag, cflag, lflag, ispeed, ospeed, letters = settings
    letters = list(letters)
    letters[termios.VMIN], letters[termios.VTIME] = b"\x01", b"\x00"
    letters[termios.VQUIT] = b"\x00"  # Ctrl-\ would leave the terminal as it is
    iflag &= ~(termios.IXON | termios.IXOFF)  # Ctrl-S would stop it
    lflag &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
    return [iflag, oflag, cflag, lflag, ispeed, ospeed, letters]
