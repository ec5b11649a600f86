"""Fifty clients that misbehave at a monitor, until killed: ``python -m bench.flood SOCKET``."""

from __future__ import annotations

import os
import select
import socket
import sys
from itertools import cycle
from pathlib import Path
from typing import Final

CLIENTS: Final = 50
_NEGOTIATE: Final = b'{"execute": "qmp_capabilities"}\n'
_SAYING: Final = (
    _NEGOTIATE + b'{"execute": "query-balloon"}\n' * 500,  # floods, and never reads
    b"[" * 65536,  # brackets without end
    b"\xff\x00 garbage }{ \n" * 4000,
    b'{"execute": "qom-g',  # half a line
    _NEGOTIATE + b'{"execute": "query-qmp-schema"}\n' * 500,
)


def main(path: Path) -> None:
    """Flood; who is cut off comes back."""
    os.nice(19)  # the processor this takes is not the monitor's fault
    sayings = cycle(_SAYING)
    clients: dict[socket.socket, bytes] = {}
    while True:
        while len(clients) < CLIENTS:
            clients[_connect(path)] = next(sayings)
        _, writable, _ = select.select([], list(clients), [], 1)
        for client in writable:
            try:
                client.send(clients[client])
            except BlockingIOError:
                continue
            except OSError:
                del clients[client]
                client.close()


def _connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    client.setblocking(False)  # noqa: FBT003 - the socket's own signature
    return client


if __name__ == "__main__":
    main(Path(sys.argv[1]))
