"""A gate on the way of a migration: it lets the first bytes through and holds the others back.

So what has to happen while a guest is being moved can be waited for, however fast the machines are.
Both ends give each other up after a minute without a byte: what is done meanwhile must be short.
Source: migration/channels.py TIMEOUT_S.  Units: bytes.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Final, Self

__all__ = ["Gate"]

_PIECE_BYTES: Final = 1 << 16


class Gate:
    """Stands before one destination, for one source; a context manager."""

    def __init__(self, path: Path, destination_uri: str, passes_bytes: int) -> None:
        """`path`: of the socket to go to instead; `passes_bytes`: what comes through at once."""
        self.uri: Final = f"unix:{path}"
        self._there_path = destination_uri.removeprefix("unix:")
        self._passes_bytes = passes_bytes
        self._is_open = Event()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._sockets = [self._listening]
        self._thread = Thread(target=self._serve, name="ballonet-gate", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._is_open.set()
        for sock in self._sockets:
            with suppress(OSError):  # nobody has come, or both have left
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def open(self) -> None:
        """Let everything through from now on."""
        self._is_open.set()

    def _serve(self) -> None:
        with suppress(OSError):
            here, _ = self._listening.accept()
            with here, socket.socket(socket.AF_UNIX) as there:
                self._sockets += (here, there)
                there.connect(self._there_path)
                back = Thread(target=_copy, args=(there, here), daemon=True)
                back.start()
                self._forward(here, there)
                there.shutdown(socket.SHUT_WR)
                back.join()

    def _forward(self, here: socket.socket, there: socket.socket) -> None:
        passed = 0
        while data := here.recv(_PIECE_BYTES):
            if passed >= self._passes_bytes:
                self._is_open.wait()
            there.sendall(data)
            passed += len(data)


def _copy(there: socket.socket, here: socket.socket) -> None:
    with suppress(OSError):  # the source has left
        while data := there.recv(_PIECE_BYTES):
            here.sendall(data)
        here.shutdown(socket.SHUT_WR)
