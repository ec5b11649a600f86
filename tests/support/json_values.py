"""What a QMP client sends: one JSON value after the other, with nothing between them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

__all__ = ["json_values"]


def json_values(connection: socket.socket) -> Iterator[tuple[Any, bytes]]:
    """Each value, and the bytes it was."""
    decoder, text = json.JSONDecoder(), ""
    while data := connection.recv(1 << 16):
        text += data.decode()
        while text := text.lstrip():
            try:
                value, end = decoder.raw_decode(text)
            except ValueError:
                break  # the rest is still to come
            yield value, text[:end].encode()
            text = text[end:]
