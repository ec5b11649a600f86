"""A stream of JSON values as QMP clients send it: in any pieces, with or without line ends.

After something stray the stream is read on where sense may begin again, as QEMU does.  Limits keep
a client from using up memory or time; they are ours, so after a value that is too long or too deep
everything up to the next line end is thrown away.
Not here: what a value means (session.py).
Source: QEMU docs/interop/qmp-spec.rst; what QEMU answers to the corpus of tests/qemu.
"""

from __future__ import annotations

from typing import Final

from ballonet.qmp.json_lexer import JsonLexer, Token
from ballonet.qmp.json_values import JsonError, ValueBuilder

__all__ = ["DEPTH_MAX", "MESSAGE_BYTES_MAX", "JsonError", "JsonStream"]

#: Far more than any command needs.
MESSAGE_BYTES_MAX: Final = 64 << 10
#: QEMU allows 1024; its commands nest three deep.
DEPTH_MAX: Final = 64

_SIDES: Final = {b"{": (1, 0), b"}": (-1, 0), b"[": (0, 1), b"]": (0, -1)}


class JsonStream:
    """Bytes in, values out."""

    def __init__(self) -> None:
        self._lexer = JsonLexer(MESSAGE_BYTES_MAX)
        self._begin_value()

    @property
    def kept_bytes(self) -> int:
        """Of a value that has not ended yet."""
        return self._size + self._lexer.kept_bytes

    def feed(self, data: bytes) -> list[object | JsonError]:
        """Every value that is complete now, and an error for whatever is none."""
        found: list[object | JsonError] = []
        for token, raw in self._lexer.feed(data):
            if self._take(token, raw):
                found.append(self._builder.value if self._error is None else self._error)
                self._begin_value()
        return found

    def _begin_value(self) -> None:
        self._builder = ValueBuilder()
        self._error: JsonError | None = None
        self._size = self._braces = self._brackets = 0

    def _take(self, token: Token, raw: bytes) -> bool:
        """True if the value ends with this token, or cannot go on."""
        if token is Token.STRAY:
            shown = raw.partition(b"\0")[0].decode(errors="replace")
            self._error = JsonError(f"JSON parse error, stray '{shown}'")
            return True
        braces, brackets = _SIDES.get(raw, (0, 0))
        self._braces += braces
        self._brackets += brackets
        self._size += len(raw)
        if token is Token.TOO_LONG or self._size > MESSAGE_BYTES_MAX:
            return self._give_up("JSON token size limit exceeded")
        if self._braces + self._brackets > DEPTH_MAX:
            return self._give_up("JSON nesting depth limit exceeded")
        self._build(token, raw)
        is_open = self._braces > 0 or self._brackets > 0
        return not is_open or self._braces < 0 or self._brackets < 0

    def _give_up(self, why: str) -> bool:
        self._error = JsonError(why)
        self._lexer.skip_line()
        return True

    def _build(self, token: Token, raw: bytes) -> None:
        """Go on with the value; after an error its brackets are only counted."""
        if self._error is None:
            try:
                self._builder.put(token, raw)
            except JsonError as error:
                self._error = error
