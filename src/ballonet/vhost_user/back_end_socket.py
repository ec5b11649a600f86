"""Requests to a back-end and their answers, which may be wrong, endless, or never come.

An answer has exactly the size its request asks for and arrives within `ANSWER_S`, however many
pieces it comes in.
Source: QEMU docs/interop/vhost-user.rst.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Final

from ballonet.errors import GuestError
from ballonet.vhost_user.messages import HEADER, U64, Request, pack_request

__all__ = ["ANSWER_S", "BackEndSocket"]

#: A back-end that drops a gigabyte before it stops its rings takes about a second.
ANSWER_S: Final = 10.0


class BackEndSocket:
    """Owns a connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """The descriptor, to be watched."""
        return self._sock.fileno()

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def says_something(self) -> bool:
        """There is something to read, rather than an end."""
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def send(
        self,
        code: Request,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        need_reply: bool = False,
    ) -> None:
        """Send a request. Raises: OSError."""
        data = pack_request(code, payload, need_reply=need_reply)
        self._sock.settimeout(ANSWER_S)
        sent = socket.send_fds(self._sock, [data], list(fds)) if fds else self._sock.send(data)
        if sent != len(data):
            raise ConnectionError("the device does not read")

    def ask(
        self,
        code: Request,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        size: int = U64.size,
    ) -> bytes:
        """Send a request and return its answer of `size` bytes. Raises: OSError; GuestError."""
        self.send(code, payload, fds)
        return self.receive(code, size)

    def receive(self, code: Request, size: int = U64.size) -> bytes:
        """The answer to a request. Raises: OSError; GuestError, if it is none that can be."""
        end_s = time.monotonic() + ANSWER_S
        request, _, answered = HEADER.unpack(self._read(HEADER.size, end_s))
        if request != code:
            raise GuestError(f"the device answers request {request} instead of {code.name}")
        if answered != size:
            raise GuestError(f"the device answers {code.name} with {answered} bytes, not {size}")
        return self._read(size, end_s)

    def _read(self, size: int, end_s: float) -> bytes:
        data = b""
        while len(data) < size:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no whole answer within {ANSWER_S:.0f} s")
            self._sock.settimeout(left_s)
            more = self._sock.recv(size - len(data))
            if not more:
                raise ConnectionError("the device hung up")
            data += more
        return data
