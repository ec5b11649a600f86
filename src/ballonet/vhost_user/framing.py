"""Cutting a byte stream into messages, without ever waiting for the rest of one."""

from __future__ import annotations

from collections.abc import Sequence

from ballonet.errors import WireError
from ballonet.vhost_user.messages import FDS_MAX, HEADER, Message, parse_header

__all__ = ["Framer"]


class Framer:
    """Collects one message at a time; ask `wanted` how many bytes to read next."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._fds: list[int] = []
        self._header: tuple[int, int, int] | None = None

    @property
    def wanted(self) -> int:
        """Bytes still missing from the header, or from the payload: never more than one message."""
        size = HEADER.size if self._header is None else self._header[2]
        return size - len(self._raw)

    @property
    def inside_message(self) -> bool:
        """Some of a message has arrived, but not all."""
        return bool(self._raw) or self._header is not None

    def feed(self, data: bytes, fds: Sequence[int]) -> Message | None:
        """Take what was read; returns the message it completes. Raises: WireError."""
        self._fds += fds
        if len(self._fds) > FDS_MAX:
            raise WireError("fds", len(self._fds), f"must be at most {FDS_MAX}", "vhost-user.rst")
        self._raw += data
        if self._header is None and not self.wanted:
            self._header = parse_header(bytes(self._raw))
            self._raw.clear()
        if self._header is None or self.wanted:
            return None
        code, flags, _ = self._header
        message = Message(code, flags, bytes(self._raw), tuple(self._fds))
        self._raw.clear()
        self._fds, self._header = [], None
        return message
