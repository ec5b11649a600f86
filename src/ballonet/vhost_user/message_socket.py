"""The socket of one front-end: whole messages in, answers out, descriptors owned or closed."""

from __future__ import annotations

import array
import os
import select
import socket
from collections.abc import Iterable, Sequence
from typing import Final

from ballonet.errors import SystemCallError
from ballonet.vhost_user.framing import Framer
from ballonet.vhost_user.messages import FDS_MAX, Message
from ballonet.vhost_user.notifiers import SEND_FLAGS

__all__ = ["MessageSocket"]

#: Room for one descriptor too many, so that a message with too many is seen as such.
_FDS_SPACE: Final = socket.CMSG_SPACE((FDS_MAX + 1) * 4)
_RECEIVE: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_HUNG_UP: Final = select.POLLHUP | select.POLLRDHUP


class MessageSocket:
    """Owns the socket, and every descriptor that came with a message until somebody claims it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._framer = Framer()
        self._unclaimed: set[int] = set()
        sock.settimeout(0)

    def fileno(self) -> int:
        """To wait for."""
        return self._sock.fileno()

    @property
    def inside_message(self) -> bool:
        """Some of a message has arrived, but not all."""
        return self._framer.inside_message

    @property
    def has_hung_up(self) -> bool:
        """The front-end has left; what it had sent before may still be there."""
        poll = select.poll()
        poll.register(self._sock, _HUNG_UP)
        return bool(poll.poll(0))

    def read(self) -> None:
        """Read what is there, or a part of it; then there may be messages to `take`.

        Raises: BlockingIOError, if nothing is there now; EOFError at the end; OSError.
        """
        data, ancillary, _, _ = self._sock.recvmsg(self._framer.wanted, _FDS_SPACE, _RECEIVE)
        fds = _descriptors(ancillary) if ancillary else ()
        self._unclaimed.update(fds)
        if not data:
            raise EOFError
        self._framer.feed(data, fds)

    def take(self) -> Message | None:
        """The next message that was read in full. Raises: WireError."""
        return self._framer.take()

    def claim(self, fd: int) -> None:
        """Somebody owns this descriptor from now on."""
        self._unclaimed.discard(fd)

    def close_unclaimed(self, message: Message) -> None:
        """Close the descriptors of a message that nobody wanted."""
        if not message.fds:
            return
        for fd in self._unclaimed.intersection(message.fds):
            os.close(fd)
            self._unclaimed.discard(fd)

    def send(self, data: bytes) -> None:
        """Answer. Raises: SystemCallError, if the front-end does not take it now."""
        try:
            sent = self._sock.send(data, SEND_FLAGS)
        except OSError as error:
            raise SystemCallError("answering", "front-end", error.strerror or "") from error
        if sent != len(data):
            raise SystemCallError("answering", "front-end", "it does not read its replies")

    def close(self) -> None:
        """Hang up."""
        for fd in self._unclaimed:
            os.close(fd)
        self._unclaimed.clear()
        self._sock.close()


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> Sequence[int]:
    """Those that came with a read; they are ours now."""
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return fds
