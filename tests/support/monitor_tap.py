"""Between a client and a monitor, one client after another: what the client sends is kept."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.json_values import json_values

__all__ = ["tapped"]


@contextmanager
def tapped(monitor: Path, path: Path) -> Iterator[list[dict[str, Any]]]:
    """Listens at `path` for clients of `monitor`; the list has every command that they send."""
    sent: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        threading.Thread(target=_serve, args=(listening, monitor, sent), daemon=True).start()
        try:
            yield sent
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def _serve(listening: socket.socket, monitor: Path, sent: list[dict[str, Any]]) -> None:
    with suppress(OSError):
        while True:
            client, _ = listening.accept()
            with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
                server.connect(str(monitor))
                threading.Thread(target=_copy, args=(server, client), daemon=True).start()
                for command, raw in json_values(client):
                    sent.append(command)
                    server.sendall(raw)
                # Closing alone would leave it open for as long as the other thread reads from it.
                server.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
