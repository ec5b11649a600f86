"""One end of the socket between a host of ours and our embedded guest.

Nothing here waits for the other end: what it does not send is not there yet, and what it does not
read is told to whoever sends.
Not here: what frames mean (framing.py); who is served (guest_connection.py), how a guest finds its
host again (guest_link.py).
"""

from __future__ import annotations

import array
import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Final

from ballonet.errors import WireError
from ballonet.siblings.framing import REGIONS_MAX, Frame, Framer

__all__ = ["Link"]

#: A few frames; all that is read before what was read is obeyed.
_READ_BYTES: Final = 8192
#: Room for one descriptor too many, so that a frame with too many is seen as such.
_FDS_SPACE: Final = socket.CMSG_SPACE((REGIONS_MAX + 1) * 4)
_RECEIVE: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_SEND: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_HUNG_UP: Final = select.POLLHUP | select.POLLRDHUP


class Link:
    """Owns the socket, and the descriptors that came until somebody takes them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._framer = Framer()
        self._fds: list[int] = []
        self._full_ns: int | None = None  # since when nothing could be sent
        self.fds_max = 0  #: descriptors that the other end may have sent and nobody took
        sock.settimeout(0)

    def fileno(self) -> int:
        """To wait for."""
        return self._sock.fileno()

    @property
    def has_frame(self) -> bool:
        """There is something to `take`."""
        return self._framer.has_frame

    @property
    def inside_frame(self) -> bool:
        """Some of a frame has arrived, but not all."""
        return self._framer.inside_frame

    @property
    def has_hung_up(self) -> bool:
        """The other end has left; what it had sent before may still be there."""
        poll = select.poll()
        poll.register(self._sock, _HUNG_UP)
        return bool(poll.poll(0))

    def read(self) -> None:
        """Read what is there, or a part of it; nothing while something is there to `take`.

        Raises: BlockingIOError, if nothing is there now; EOFError at the end; OSError; WireError,
        if there are too many descriptors.
        """
        if self.has_frame:
            return
        data, ancillary, _, _ = self._sock.recvmsg(_READ_BYTES, _FDS_SPACE, _RECEIVE)
        self._fds += _descriptors(ancillary)
        if len(self._fds) > self.fds_max:
            rule = f"must be at most {self.fds_max}"
            raise WireError("descriptors", len(self._fds), rule, "siblings.framing")
        if not data:
            raise EOFError
        self._framer.feed(data)

    def take(self) -> Frame | None:
        """The next frame that was read in full. Raises: WireError."""
        return self._framer.take()

    def take_fds(self) -> list[int]:
        """The descriptors that came; the caller's from now on."""
        fds, self._fds = self._fds, []
        return fds

    def send(self, frame: bytes, fds: Sequence[int] = ()) -> bool:
        """Send a frame; False: nothing was sent.

        Either the other end has not read what was sent before, or it is gone, which is seen when
        the socket is read.
        """
        try:
            if fds:
                sent = socket.send_fds(self._sock, [frame], fds, _SEND)
            else:
                sent = self._sock.send(frame, _SEND)
        except OSError:
            self._full_ns = self._full_ns or time.monotonic_ns()
            return False
        self._full_ns = None
        if sent != len(frame):  # not seen of Linux, which gives so short a piece one buffer
            self._sock.shutdown(socket.SHUT_RDWR)
        return sent == len(frame)

    @property
    def full_ns(self) -> int:
        """For how long the other end has read nothing of what waits for it."""
        return 0 if self._full_ns is None else time.monotonic_ns() - self._full_ns

    def close(self) -> None:
        """Hang up; safe to call again."""
        for fd in self.take_fds():
            os.close(fd)
        self._sock.close()


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> Sequence[int]:
    """Those that came with a read; they are ours now."""
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return fds.tolist()
