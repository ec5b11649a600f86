"""A stream of JSON values as QMP clients send it: in any pieces, with or without line ends.

Each value is cut out of the stream by its brackets and parsed whole.  Limits keep a client from
using up memory or time: after a value that is too long or too deep everything up to the next line
end is thrown away.
Strings may be in single quotes too, as QEMU's parser allows.
Not here: what a value means (session.py).
Source: QEMU docs/interop/qmp-spec.rst; qobject/json-streamer.c for the texts.
"""

from __future__ import annotations

import json
import re
from typing import Final

__all__ = ["DEPTH_MAX", "MESSAGE_BYTES_MAX", "JsonError", "JsonStream"]

#: Far more than any command needs.
MESSAGE_BYTES_MAX: Final = 64 << 10
#: QEMU allows 1024; its commands nest three deep.
DEPTH_MAX: Final = 64

_STRUCTURE: Final = re.compile(rb"[\"'\[\]{}\n]")
_STRING_END: Final = {b'"': re.compile(rb'["\\\n]'), b"'": re.compile(rb"['\\\n]")}
_STRINGS: Final = re.compile(r"""\"(?:[^"\\]|\\.)*\"|'((?:[^'\\]|\\.)*)'""")
_SPACE: Final = b" \t\r\n"
_OPENING: Final = b"[{"


class JsonError(ValueError):
    """Input that is no JSON value; the text is what the client is told."""


class JsonStream:
    """Bytes in, values out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # how far the buffer was looked at
        self._depth = 0
        self._quote = b""  # of the string we are in
        self._skipping = False

    def feed(self, data: bytes) -> list[object | JsonError]:
        """Every value that is complete now, and an error for whatever is none."""
        found: list[object | JsonError] = []
        self._buffer += data
        while True:
            if self._skipping and not self._skip_line():
                return found
            value = self._next()
            if value is None:
                return found
            found.append(value[0])

    def _skip_line(self) -> bool:
        """Throw a line away; True if its end was there."""
        end = self._buffer.find(b"\n")
        self._skipping = end < 0
        self._forget(len(self._buffer) if end < 0 else end + 1)
        return not self._skipping

    def _next(self) -> tuple[object | JsonError] | None:
        """One value or error, or None if more bytes are needed."""
        if not self._depth:
            self._drop_space()
            if not self._buffer:
                return None
            if self._buffer[0] not in _OPENING:
                return self._bare_word()
        end = self._scan()
        if isinstance(end, JsonError):
            self._skipping = True
            self._forget(max(0, self._at - 1))  # not the line end that may be there
            return (end,)
        if end is None:
            return None
        raw = bytes(self._buffer[:end])
        self._forget(end)
        return (_parse(raw),)

    def _drop_space(self) -> None:
        stripped = self._buffer.lstrip(_SPACE)
        if len(stripped) != len(self._buffer):
            self._buffer = stripped
        self._at = 0

    def _bare_word(self) -> tuple[JsonError] | None:
        """Something that begins with no bracket: an error as soon as its line ends."""
        end = self._buffer.find(b"\n")
        if end < 0 and len(self._buffer) <= MESSAGE_BYTES_MAX:
            return None
        line = bytes(self._buffer[: MESSAGE_BYTES_MAX if end < 0 else end])
        self._skipping = end < 0
        self._forget(len(self._buffer) if end < 0 else end + 1)
        parsed = _parse(line)
        if isinstance(parsed, JsonError):
            return (parsed,)
        return (JsonError("QMP input must be a JSON object"),)

    def _scan(self) -> int | JsonError | None:
        """Where the value at the start ends; None if that is not there yet."""
        while True:
            pattern = _STRING_END[self._quote] if self._quote else _STRUCTURE
            match = pattern.search(self._buffer, self._at)
            if match is None:
                self._at = len(self._buffer)
                return self._too_long()
            self._at = match.end()
            if self._quote:
                if match.group() == b"\n":  # no string goes on over a line end: begin afresh
                    return JsonError("JSON parse error, invalid string")
                if not self._end_of_string(match.group()):
                    return self._too_long()
                continue
            if self._step(match.group()):
                return self._at
            if self._depth > DEPTH_MAX:
                return JsonError("JSON nesting depth limit exceeded")
            if self._at > MESSAGE_BYTES_MAX:
                return self._too_long()

    def _end_of_string(self, char: bytes) -> bool:
        """Go past a quote or an escape; False if the escaped character is not there yet."""
        if char == self._quote:
            self._quote = b""
        elif self._at == len(self._buffer):
            self._at -= 1
            return False
        else:
            self._at += 1
        return True

    def _step(self, char: bytes) -> bool:
        """Count a bracket; True if it closes the value."""
        if char in _STRING_END:
            self._quote = char
        elif char in b"[{":
            self._depth += 1
        elif char in b"]}":
            self._depth -= 1
            return self._depth == 0
        return False

    def _too_long(self) -> JsonError | None:
        if len(self._buffer) > MESSAGE_BYTES_MAX:
            return JsonError("JSON token size limit exceeded")
        return None

    def _forget(self, count: int) -> None:
        del self._buffer[:count]
        self._at = self._depth = 0
        self._quote = b""


def _parse(raw: bytes) -> object | JsonError:
    try:
        text = raw.decode()
        value: object = json.loads(_STRINGS.sub(_double_quoted, text) if "'" in text else text)
    except UnicodeDecodeError:
        return JsonError("JSON parse error, invalid UTF-8 sequence in string")
    except ValueError as error:
        return JsonError(f"JSON parse error, {_words(str(error), raw)}")
    return value


def _double_quoted(string: re.Match[str]) -> str:
    """A string as JSON has it, whatever its quotes."""
    content = string[1]
    if content is None:
        return string[0]
    return '"' + content.replace("\\'", "'").replace('"', '\\"') + '"'


def _words(complaint: str, raw: bytes) -> str:
    """What QEMU would say of it, as far as it says anything that helps."""
    if "':' delimiter" in complaint:
        return "missing : in object pair"
    word = re.match(rb"[A-Za-z_]+", raw)
    return f"invalid keyword '{word[0].decode()}'" if word else "expecting value"
