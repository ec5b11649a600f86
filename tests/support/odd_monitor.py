"""A monitor that answers as a test wants it to, one client at a time or none at all."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.support.json_values import json_values

__all__ = ["GREETING", "odd_monitor"]

GREETING: Final = (
    json.dumps({"QMP": {"version": {"qemu": {}, "package": ""}, "capabilities": []}}) + "\r\n"
).encode()

Answer = Callable[[str], bytes]


@contextmanager
def odd_monitor(
    path: Path, answer: Answer, greeting: bytes = GREETING, *, endless: bool = False
) -> Iterator[list[str]]:
    """Listens at `path` inside the block; what it was asked is in the list.

    `answer` gives the reply to a command, without its id, bytes that are none, or nothing;
    `endless` repeats the greeting until the client leaves.
    """
    asked: list[str] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        args = (listening, answer, greeting, asked, endless)
        threading.Thread(target=_serve, args=args, daemon=True).start()
        try:
            yield asked
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def _serve(
    listening: socket.socket, answer: Answer, greeting: bytes, asked: list[str], endless: bool
) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.sendall(greeting)
                while endless:
                    connection.sendall(greeting)
                _talk(connection, answer, asked)


def _talk(connection: socket.socket, answer: Answer, asked: list[str]) -> None:
    for command, _ in json_values(connection):
        name = command["execute"]
        asked.append(name)
        reply = b'{"return": {}}' if name == "qmp_capabilities" else answer(name)
        if reply.startswith((b'{"return"', b'{"error"')) and "id" in command:
            reply = json.dumps(json.loads(reply) | {"id": command["id"]}).encode()
        if reply:  # an empty line would be one that is not QMP
            connection.sendall(reply + b"\r\n")
