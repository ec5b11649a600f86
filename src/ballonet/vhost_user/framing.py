"""Cutting a byte stream into messages, without ever waiting for the rest of one.

More is read than the message under way may have left, so that a short one, as every access to the
configuration is, takes one system call and not two.  The kernel ends a read behind bytes that came
with descriptors: so those of a read belong to the message that its last byte is of.
Source: QEMU docs/interop/vhost-user.rst; Linux unix_stream_read_generic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ballonet.errors import WireError
from ballonet.vhost_user.messages import FDS_MAX, HEADER, Message, parse_header

__all__ = ["Framer"]

#: More than any message but a memory table has; so many bytes are at most 21 messages.
_READ_BYTES: Final = 256


class Framer:
    """Give it what was read, and take messages until there is none; then read on."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._end = HEADER.size  # of the message under way, or of its header
        self._fds: list[tuple[int, Sequence[int]]] = []  # how far a read came, and what with it

    @property
    def wanted(self) -> int:
        """Bytes to read next."""
        return max(_READ_BYTES, self._end - len(self._raw))

    @property
    def inside_message(self) -> bool:
        """Some of a message has arrived, but not all."""
        return bool(self._raw)

    def feed(self, data: bytes, fds: Sequence[int]) -> None:
        """Keep what was read."""
        self._raw += data
        if fds:
            self._fds.append((len(self._raw), fds))

    def take(self) -> Message | None:
        """The next message; None: not all of it is there. Raises: WireError."""
        raw = self._raw
        if len(raw) >= HEADER.size:
            code, flags, size = parse_header(raw)
            self._end = HEADER.size + size
        if len(raw) < self._end:
            self._check_fds(len(raw))
            return None
        end, self._end = self._end, HEADER.size
        message = Message(code, flags, bytes(raw[HEADER.size : end]), self._take_fds(end))
        del raw[:end]
        return message

    def _take_fds(self, end: int) -> tuple[int, ...]:
        """The descriptors of a message; those of later ones stay."""
        if not self._fds:
            return ()
        self._check_fds(end)
        taken = tuple(fd for at, fds in self._fds if at <= end for fd in fds)
        self._fds = [(at - end, fds) for at, fds in self._fds if at > end]
        return taken

    def _check_fds(self, end: int) -> None:
        """Raises: WireError, if more have come than a message may have."""
        count = sum(len(fds) for at, fds in self._fds if at <= end)
        if count > FDS_MAX:
            raise WireError("fds", count, f"must be at most {FDS_MAX}", "vhost-user.rst")
