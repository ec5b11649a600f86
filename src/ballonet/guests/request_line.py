"""The other end of an embedded guest's requests: a JSON object in a line, and its answer.

See embedded_requests.py for what can be asked.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from ballonet.errors import GuestError

__all__ = ["RequestLine"]


class RequestLine:
    """One guest at a time, one question at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = b""

    def ask(self, what: str, arguments: Mapping[str, object], timeout_s: float) -> Any:  # noqa: ANN401 - JSON
        """Wait for the answer.

        Raises: GuestError, with why it refuses; EOFError, if it has ended; TimeoutError; OSError.
        """
        self._sock.settimeout(timeout_s)
        self._sock.sendall(json.dumps({"do": what, **arguments}).encode() + b"\n")
        while b"\n" not in self._received:
            data = self._sock.recv(1 << 16)
            if not data:
                raise EOFError(what)
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise GuestError(f"{what}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """Hang up: the guest ends. Safe to call again."""
        self._sock.close()
