"""What a migration's engine and the machine it moves say to each other.

The engine is a process of its own, so that it can die and hurt nobody; the machine is the only one
that knows how to stop, and what there is besides memory.  Over a pair of sockets go JSON objects, a
line each, and after some of them bytes as they are.

    engine     {"ask": NAME, ...}                        answered with
    machine    {"answer": {...}, "bytes": N} + N bytes   or {"error": "why not"}
    engine     {"tell": NAME, ...}                       not answered
    machine    {"wish": "cancel" | "postcopy" | ...}     at any time

With an answer may come a descriptor.  Either end that closes is gone: the engine gives up, and the
machine goes on by itself.
"""

from __future__ import annotations

import json
import select
import socket
from collections import deque
from typing import Any, Final

from ballonet.errors import MigrationError

__all__ = ["EngineLink", "encode_line"]

_LINE_MAX: Final = 1 << 20
_BYTES_MAX: Final = 1 << 32


def encode_line(message: dict[str, Any], raw: bytes = b"") -> bytes:
    """A message as it goes over the wire."""
    if raw:
        message = message | {"bytes": len(raw)}
    return json.dumps(message).encode() + b"\n" + raw


class EngineLink:
    """The engine's end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(None)  # the machine answers when it can: a busy guest stops late
        self._sock = sock
        self._received = bytearray()
        self._wishes: deque[dict[str, Any]] = deque()
        self._fds: deque[int] = deque()

    def fileno(self) -> int:
        """To wait for."""
        return self._sock.fileno()

    def ask(self, name: str, **arguments: object) -> tuple[dict[str, Any], bytes]:
        """Ask the machine for something; returns its answer, and the bytes that came with it.

        Raises: MigrationError, with what the machine says, or if it is gone.
        """
        self._send({"ask": name, **arguments})
        while True:
            message = self._line()
            if "wish" in message:
                self._wishes.append(message)
                continue
            if "error" in message:
                raise MigrationError(str(message["error"]))
            size = message.get("bytes", 0)
            if not isinstance(size, int) or not 0 <= size <= _BYTES_MAX:
                raise MigrationError(f"the machine announces {size!r} bytes")
            return message["answer"], self._exactly(size)

    def tell(self, name: str, **arguments: object) -> None:
        """Tell the machine something. Raises: MigrationError, if it is gone."""
        self._send({"tell": name, **arguments})

    def wish(self) -> str | None:
        """What the machine wants besides, if it wants anything; waits not.

        Raises: MigrationError, if it is gone.
        """
        message = self.hear()
        return None if message is None else str(message["wish"])

    def hear(self) -> dict[str, Any] | None:
        """The same, with all that it says about it."""
        while self._has_line() or select.select([self._sock], [], [], 0)[0]:
            message = self._line()
            if "wish" in message:
                self._wishes.append(message)
        return self._wishes.popleft() if self._wishes else None

    def take_fd(self) -> int:
        """The descriptor that came with an answer; the caller's. Raises: MigrationError."""
        if not self._fds:
            raise MigrationError("the machine has sent no descriptor")
        return self._fds.popleft()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._sock.sendall(encode_line(message))
        except OSError as error:
            raise MigrationError(f"the guest's machine is gone: {error.strerror}") from error

    def _has_line(self) -> bool:
        return b"\n" in self._received

    def _line(self) -> dict[str, Any]:
        while not self._has_line():
            if len(self._received) > _LINE_MAX:
                raise MigrationError("the guest's machine says a line without an end")
            self._receive()
        line, _, rest = self._received.partition(b"\n")
        self._received = rest
        message: dict[str, Any] = json.loads(line)
        return message

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        raw = bytes(self._received[:size])
        del self._received[:size]
        return raw

    def _receive(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, 1 << 20, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise MigrationError(f"the guest's machine is gone: {error.strerror}") from error
        if not data:
            raise MigrationError("the guest's machine is gone")
        self._fds += fds
        self._received += data
