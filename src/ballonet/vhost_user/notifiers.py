"""Descriptors of somebody hostile, used in no way that could wait for them.

The open file behind each is shared, and so are its flags: that it is non-blocking now says nothing
about the next system call.  An eventfd is signalled by the kernel (runtime/eventfds.py), a Unix
socket is sent to with MSG_DONTWAIT.  Anything else is refused: a pipe's lock can be held by whoever
reads it, and a file of FUSE answers when its owner likes.
All known front-ends send eventfds, except for User-Mode Linux, whose calls go to a socket pair.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import Final, Protocol

from ballonet.runtime.eventfds import is_eventfd, signal_eventfd

__all__ = ["SEND_FLAGS", "Notifier", "adopt_unix_socket", "check_kick", "make_notifier"]

#: For a send that neither waits nor raises a signal.
SEND_FLAGS: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_ONE: Final = (1).to_bytes(8, "little")


class Notifier(Protocol):
    """Tells somebody that something happened; owns its descriptor."""

    def signal(self) -> None:
        """Tell; one that takes no more has something waiting already."""
        ...

    def close(self) -> None:
        """Give it up."""
        ...


def check_kick(fd: int) -> None:
    """Raises: OSError, unless it can be waited for and need not be read: an eventfd."""
    if not is_eventfd(fd):
        raise OSError(errno.EINVAL, "it is not an eventfd")


def make_notifier(fd: int) -> Notifier:
    """Take over a descriptor. Raises: OSError; it is still the caller's then."""
    if is_eventfd(fd):
        return _EventfdNotifier(fd)
    try:
        return _SocketNotifier(adopt_unix_socket(fd))
    except OSError as error:
        raise OSError(errno.EINVAL, "it is neither an eventfd nor a Unix socket") from error


def adopt_unix_socket(fd: int) -> socket.socket:
    """Take over a descriptor. Raises: OSError; it is still the caller's then."""
    sock = socket.socket(fileno=fd)
    if sock.family != socket.AF_UNIX:
        sock.detach()
        raise OSError(errno.EINVAL, "it is not a Unix socket")
    return sock


class _EventfdNotifier:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def signal(self) -> None:
        signal_eventfd(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class _SocketNotifier:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def signal(self) -> None:
        with suppress(OSError):
            self._sock.send(_ONE, SEND_FLAGS)

    def close(self) -> None:
        self._sock.close()
