"""JSON's tokens, cut out of a stream of bytes in any pieces.

Theory of operation.  A table says for each state and byte what comes next: another state, or the
end of a token.  A token may end before the byte that ends it, which then begins the next one; from
the start every byte is taken.  So there are at most two steps for a byte, whatever is sent.  After
a stray byte all is skipped up to a bracket, comma, colon or control character, which are where
sense may begin again.
Strings may be in single quotes too; what an escape or a keyword means is not known here.
Source: RFC 8259; QEMU docs/interop/qmp-spec.rst; the states are those QEMU's lexer can be seen in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import Final

__all__ = ["JsonLexer", "Token"]


class Token(Enum):
    """What a piece of the stream is."""

    PUNCTUATION = auto()  #: one of []{},:
    STRING = auto()  #: with its quotes
    INTEGER = auto()
    FLOAT = auto()
    KEYWORD = auto()  #: small letters, whether or not they mean anything
    STRAY = auto()  #: what was begun, up to the byte that cannot follow
    TOO_LONG = auto()  #: a token beyond every limit; nothing of it is kept


class _State(IntEnum):
    """Where in a token the stream is."""

    START = 0
    RECOVERY = auto()  #: after a stray byte
    LINE = auto()  #: thrown away to its end
    DOUBLE_QUOTED = auto()
    DOUBLE_QUOTED_ESCAPE = auto()
    SINGLE_QUOTED = auto()
    SINGLE_QUOTED_ESCAPE = auto()
    SIGN = auto()
    ZERO = auto()
    DIGITS = auto()
    POINT = auto()
    FRACTION = auto()
    EXPONENT = auto()
    EXPONENT_SIGN = auto()
    EXPONENT_DIGITS = auto()
    KEYWORD = auto()


@dataclass(frozen=True, slots=True)
class _End:
    """A token ends; `takes`: with this byte, else before it. None: nothing was begun."""

    token: Token | None
    takes: bool


_Step = _State | _End
_Row = tuple[_Step, ...]


def _row(otherwise: _Step, *rules: tuple[bytes, _Step]) -> _Row:
    steps = [otherwise] * 256
    for of, step in rules:
        for byte in of:
            steps[byte] = step
    return tuple(steps)


def _span(first: int, last: int) -> bytes:
    return bytes(range(first, last + 1))


_DIGIT, _ONE_TO_NINE, _SMALL = b"0123456789", b"123456789", _span(ord("a"), ord("z"))
_TEXT: Final = _span(0x20, 0xFD)  # what no string can do without; 0xFE, 0xFF are never UTF-8
_RESYNC: Final = bytes(set(_span(0, 0x1F)) - set(b"\t")) + b"\xfe\xff" + b"[]{},:"
_STRAY: Final = _End(Token.STRAY, takes=True)
_INTEGER: Final = _End(Token.INTEGER, takes=False)
_FLOAT: Final = _End(Token.FLOAT, takes=False)
_STRING: Final = _End(Token.STRING, takes=True)
_S = _State
_TABLE: Final[dict[_State, _Row]] = {
    _S.START: _row(
        _STRAY,
        (b" \t\r\n", _S.START),
        (b'"', _S.DOUBLE_QUOTED),
        (b"'", _S.SINGLE_QUOTED),
        (b"-", _S.SIGN),
        (b"0", _S.ZERO),
        (_ONE_TO_NINE, _S.DIGITS),
        (_SMALL, _S.KEYWORD),
        (b"[]{},:", _End(Token.PUNCTUATION, takes=True)),
    ),
    _S.RECOVERY: _row(_S.RECOVERY, (_RESYNC, _End(None, takes=False))),
    _S.LINE: _row(_S.LINE, (b"\n", _S.START)),
    _S.DOUBLE_QUOTED: _row(
        _STRAY, (_TEXT, _S.DOUBLE_QUOTED), (b"\\", _S.DOUBLE_QUOTED_ESCAPE), (b'"', _STRING)
    ),
    _S.DOUBLE_QUOTED_ESCAPE: _row(_STRAY, (_TEXT, _S.DOUBLE_QUOTED)),
    _S.SINGLE_QUOTED: _row(
        _STRAY, (_TEXT, _S.SINGLE_QUOTED), (b"\\", _S.SINGLE_QUOTED_ESCAPE), (b"'", _STRING)
    ),
    _S.SINGLE_QUOTED_ESCAPE: _row(_STRAY, (_TEXT, _S.SINGLE_QUOTED)),
    _S.SIGN: _row(_STRAY, (b"0", _S.ZERO), (_ONE_TO_NINE, _S.DIGITS)),
    _S.ZERO: _row(_INTEGER, (_DIGIT, _STRAY), (b".", _S.POINT)),
    _S.DIGITS: _row(_INTEGER, (_DIGIT, _S.DIGITS), (b".", _S.POINT), (b"eE", _S.EXPONENT)),
    _S.POINT: _row(_STRAY, (_DIGIT, _S.FRACTION)),
    _S.FRACTION: _row(_FLOAT, (_DIGIT, _S.FRACTION), (b"eE", _S.EXPONENT)),
    _S.EXPONENT: _row(_STRAY, (b"+-", _S.EXPONENT_SIGN), (_DIGIT, _S.EXPONENT_DIGITS)),
    _S.EXPONENT_SIGN: _row(_STRAY, (_DIGIT, _S.EXPONENT_DIGITS)),
    _S.EXPONENT_DIGITS: _row(_FLOAT, (_DIGIT, _S.EXPONENT_DIGITS)),
    _S.KEYWORD: _row(_End(Token.KEYWORD, takes=False), (_SMALL, _S.KEYWORD)),
}
#: In these nothing is part of a token.
_BETWEEN: Final = frozenset({_S.START, _S.RECOVERY, _S.LINE})


class JsonLexer:
    """Bytes in, tokens out."""

    def __init__(self, token_bytes_max: int) -> None:
        self._token_bytes_max = token_bytes_max
        self._state = _S.START
        self._token = bytearray()

    @property
    def kept_bytes(self) -> int:
        """Of a token that has not ended yet."""
        return len(self._token)

    def skip_line(self) -> None:
        """Throw away what comes up to the next line end."""
        self._state = _S.LINE
        self._token.clear()

    def feed(self, data: bytes) -> Iterator[tuple[Token, bytes]]:
        """Every token that ends in these bytes; to be taken to the last."""
        at = 0
        while at < len(data):
            if self._state is _S.LINE:
                at = data.find(b"\n", at)
                if at < 0:
                    return
            step = _TABLE[self._state][data[at]]
            if isinstance(step, _State):
                self._go(step, data[at])
                at += 1
                if len(self._token) > self._token_bytes_max:
                    self._token.clear()
                    self._state = _S.RECOVERY
                    yield Token.TOO_LONG, b""
                continue
            if step.takes:
                self._token.append(data[at])
                at += 1
            raw = bytes(self._token)
            self._token.clear()
            self._state = _S.RECOVERY if step.token is Token.STRAY else _S.START
            if step.token is not None:
                yield step.token, raw

    def _go(self, state: _State, byte: int) -> None:
        self._state = state
        if state not in _BETWEEN:
            self._token.append(byte)
