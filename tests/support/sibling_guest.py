"""A guest of Hyper-V's or VMware's balloon, as bytes on a socket; it may say what it likes.

Part of the test peer, which shares no code with the package under test.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from tests.support.wait import PATIENCE_S

HELLO, WELCOME, REFUSAL, CALL, ANSWER, DOORBELL, MESSAGE = range(1, 8)
PAGE: Final = 4096
START, GET_TARGET, LOCK, UNLOCK = range(4)
BATCHED_LOCK: Final = 6
ALL_CAPABILITIES: Final = 0x3E


def frame(kind: int, body: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack("<II", len(body), kind) + body


def hello(
    kind: str,
    regions: Sequence[tuple[int, int, int]],
    *,
    version: int = 1,
    count: int | None = None,
    magic: bytes = b"ballonet",
) -> bytes:
    """The first frame of a guest, with regions of address, size and offset in their file."""
    count = len(regions) if count is None else count
    head = struct.pack("<8sII8s", magic, version, count, kind.encode())
    return frame(HELLO, head + b"".join(struct.pack("<QQQ", *one) for one in regions))


class RawGuest:
    """One connection, with memory of its own; a context manager."""

    def __init__(self, path: Path, pages: int = 64, *, memory_fd: int | None = None) -> None:
        """`memory_fd`: of the file that its memory shall be; it is closed at the end."""
        self.pages: Final = pages
        self.memory_fd: Final = os.memfd_create("raw-guest") if memory_fd is None else memory_fd
        os.ftruncate(self.memory_fd, pages * PAGE)
        self.socket: Final = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        os.close(self.memory_fd)

    def introduce(self, kind: str) -> None:
        """Say hello, and be welcome."""
        self.send(hello(kind, [(0, self.pages * PAGE, 0)]), [self.memory_fd])
        assert self.receive() == (WELCOME, b"")

    def send(self, raw: bytes, fds: Sequence[int] = ()) -> None:
        """Any bytes."""
        if fds:
            socket.send_fds(self.socket, [raw], fds)
        else:
            self.socket.sendall(raw)

    def receive(self) -> tuple[int, bytes] | None:
        """Kind and body of the next frame; None: the host has hung up."""
        while True:
            if len(self._received) >= 8:
                size, kind = struct.unpack_from("<II", self._received)
                if len(self._received) >= 8 + size:
                    body = self._received[8 : 8 + size]
                    self._received = self._received[8 + size :]
                    return kind, body
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._received += data

    def refusal(self) -> str:
        """Why it is refused; the host has hung up then."""
        answer = self.receive()
        assert answer is not None
        kind, body = answer
        assert kind == REFUSAL
        assert self.receive() is None
        return body.decode()

    def call(self, command: int, arg1: int = 0, arg2: int = 0) -> tuple[int, int]:
        """One call of VMware's: status and result."""
        self.send(frame(CALL, struct.pack("<IQQ", command, arg1, arg2)))
        answer = self.receive()
        assert answer is not None
        kind, body = answer
        assert kind == ANSWER
        status, result = struct.unpack("<IQ", body)
        return status, result

    def held_bytes(self) -> int:
        """Host memory behind its own."""
        return os.fstat(self.memory_fd).st_blocks * 512
