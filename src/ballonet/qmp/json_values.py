"""One JSON value, built from its tokens as they come: a step for each, and no recursion.

The first thing that is wrong is what is complained of, in QEMU's words.
Numbers are what they are in QEMU: integers of 64 bits, with or without a sign, and doubles beyond.
Source: RFC 8259; what QEMU answers to the corpus of tests/qemu.
"""

from __future__ import annotations

import math
import re
from enum import Enum, auto
from typing import Final

from ballonet.qmp.json_lexer import Token

__all__ = ["JsonError", "ValueBuilder"]

#: QEMU cuts its complaints to this.
_COMPLAINT_BYTES_MAX: Final = 1023
#: Digits and sign of any integer of 64 bits.
_INTEGER_BYTES_MAX: Final = 20
_INTEGERS: Final = range(-(2**63), 2**64)
_KEYWORDS: Final[dict[bytes, bool | None]] = {b"true": True, b"false": False, b"null": None}
_ESCAPES: Final = dict(zip(b"\"'\\/bfnrt", "\"'\\/\b\f\n\r\t", strict=True))
#: A string between two escapes, or one of them; no repetition within a repetition.
_PIECE: Final = re.compile(rb"[^\\]+|\\u[0-9A-Fa-f]{4}|\\.", re.DOTALL)
_PLANE_ENDS: Final = range(0xFFFF, 0x110000, 0x10000)
#: What no text has: 32 of one block, and the last two of each plane.
_NO_CHARACTER: Final = re.compile(
    "[\ufdd0-\ufdef" + "".join(f"{chr(last - 1)}{chr(last)}" for last in _PLANE_ENDS) + "]"
)
_HIGH, _LOW = range(0xD800, 0xDC00), range(0xDC00, 0xE000)


class JsonError(ValueError):
    """Input that is no JSON value; the text is what the client is told."""


class _Wants(Enum):
    """What may come next."""

    VALUE = auto()
    VALUE_OR_END = auto()  #: of a list that has just begun
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    SEPARATOR = auto()  #: or the end


_ENDS: Final = {_Wants.VALUE_OR_END: b"]", _Wants.KEY_OR_END: b"}"}


class ValueBuilder:
    """Tokens in; `value` is there when as many brackets were closed as opened."""

    def __init__(self) -> None:
        self.value: object = None
        self._open: list[list[object] | dict[str, object]] = []
        self._keys: list[str | None] = []  # of each that is open, the one whose value is awaited
        self._wants = _Wants.VALUE

    def put(self, token: Token, raw: bytes) -> None:
        """Take the next token. Raises: JsonError; nothing more may be put then."""
        match self._wants:
            case _Wants.COLON:
                if raw != b":":
                    raise _complaint("missing : in object pair")
                self._wants = _Wants.VALUE
            case _Wants.SEPARATOR:
                self._separate(raw)
            case _:
                self._begin(token, raw)

    def _begin(self, token: Token, raw: bytes) -> None:
        if raw == _ENDS.get(self._wants):
            self._close()
        elif raw == b"[":
            self._push([], _Wants.VALUE_OR_END)
        elif raw == b"{":
            self._push({}, _Wants.KEY_OR_END)
        else:
            self._deliver(_scalar(token, raw))

    def _push(self, container: list[object] | dict[str, object], wants: _Wants) -> None:
        self._open.append(container)
        self._keys.append(None)
        self._wants = wants

    def _separate(self, raw: bytes) -> None:
        is_list = isinstance(self._open[-1], list)
        if raw == b",":
            self._wants = _Wants.VALUE if is_list else _Wants.KEY
        elif raw == (b"]" if is_list else b"}"):
            self._close()
        else:
            raise _complaint(f"expected separator in {'list' if is_list else 'dict'}")

    def _close(self) -> None:
        self._keys.pop()
        self._deliver(self._open.pop())

    def _deliver(self, value: object) -> None:
        """Put a whole value where it belongs; in the place of a key it must be a string."""
        if not self._open:
            self.value = value
            return
        container, key = self._open[-1], self._keys[-1]
        self._wants = _Wants.SEPARATOR
        if isinstance(container, list):
            container.append(value)
        elif key is None:
            if not isinstance(value, str):
                raise _complaint("key is not a string in object")
            self._keys[-1] = value
            self._wants = _Wants.COLON
        elif key in container:
            raise _complaint("duplicate key")
        else:
            container[key] = value
            self._keys[-1] = None


def _complaint(what: str) -> JsonError:
    return JsonError(f"JSON parse error, {what}")


def _scalar(token: Token, raw: bytes) -> object:
    match token:
        case Token.STRING:
            return _text(raw)
        case Token.INTEGER | Token.FLOAT:
            return _number(token, raw)
        case Token.KEYWORD if raw in _KEYWORDS:
            return _KEYWORDS[raw]
        case Token.KEYWORD:
            what = f"invalid keyword '{raw.decode()}'"
            raise _complaint(what[:_COMPLAINT_BYTES_MAX])
    raise _complaint("expecting value")


def _number(token: Token, raw: bytes) -> int | float:
    """A number, as long as a reply could repeat it: infinity is no JSON."""
    if token is Token.INTEGER and len(raw) <= _INTEGER_BYTES_MAX:
        value = int(raw)
        if value in _INTEGERS:
            return value
    double = float(raw)
    if math.isinf(double):
        raise _complaint("number too large")
    return double


def _text(raw: bytes) -> str:
    """A string without its quotes and escapes."""
    body = raw[1:-1]
    parts, at = [], 0
    while piece := _PIECE.match(body, at):
        at = piece.end()
        if body[piece.start()] != ord("\\"):
            parts.append(_decode(piece[0]))
        elif body[piece.start() + 1] == ord("u"):
            char, at = _unicode(raw, piece.start() + 1)
            parts.append(char)
            at -= 1  # the quote before the body
        elif body[piece.start() + 1] in _ESCAPES:
            parts.append(_ESCAPES[body[piece.start() + 1]])
        else:
            raise _complaint("invalid escape sequence in string")
    return "".join(parts)


def _unicode(raw: bytes, at: int) -> tuple[str, int]:
    r"""The character of a \\u at `at`, or of two that are a pair, and where it ends."""
    code, end = _code(raw, at), at + 6
    if code in _HIGH and raw[end : end + 2] == b"\\u":
        low = _code(raw, end)
        if low in _LOW:
            code, end = 0x10000 + ((code & 0x3FF) << 10 | low & 0x3FF), end + 6
    if not _is_character(code):
        shown = raw[at:end].decode(errors="replace")
        raise _complaint(f"{shown} is not a valid Unicode character")
    return chr(code), end


def _code(raw: bytes, at: int) -> int:
    r"""The number of a \\u, or -1 if it has none."""
    piece = _PIECE.match(raw, at)
    digits = b"" if piece is None else piece[0].removeprefix(b"\\u")
    return int(digits, 16) if len(digits) == 4 else -1


def _is_character(code: int) -> bool:
    """Not one of those that Unicode will never give a meaning; 0 is one in modified UTF-8."""
    is_half = code in _HIGH or code in _LOW
    return 0 <= code <= 0x10FFFF and not is_half and _NO_CHARACTER.match(chr(code)) is None


def _decode(raw: bytes) -> str:
    """Modified UTF-8: of the forms that are too long, only that of 0 is allowed."""
    try:
        text = raw.replace(b"\xc0\x80", b"\0").decode()
    except UnicodeDecodeError as error:
        raise _complaint("invalid UTF-8 sequence in string") from error
    if _NO_CHARACTER.search(text):
        raise _complaint("invalid UTF-8 sequence in string")
    return text
