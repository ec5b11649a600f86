"""Numbers in HMP: expressions of 64-bit integers with a sign, which wrap.

    sum = logic { + - logic }     logic = product { & | ^ product }
    product = unary { * / % unary }     unary = { + - ~ } number | 'c' | ( sum )

Numbers as in C: 10, 0x10, 010.  Operators and operands wait on two stacks, so that no depth of
brackets needs a depth of calls; every byte is read once.
Source: QEMU monitor/hmp.c get_expr; what QEMU answers to the corpus of tests/qemu.
"""

from __future__ import annotations

import re
from typing import Final

from ballonet.qmp.errors import WrongLineError

__all__ = ["SPACE", "evaluate", "wrap"]

#: What C calls white space.
SPACE: Final = b" \t\n\v\f\r"
_NUMBER: Final = re.compile(rb"(0[xX][0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*)")
#: More digits than any number of 64 bits has, by base; leading zeros do not count.
_DIGITS_MAX: Final = {16: 16, 8: 22, 10: 20}
_LEVELS: Final = {b"+": 1, b"-": 1, b"&": 2, b"|": 2, b"^": 2, b"*": 3, b"/": 3, b"%": 3}
_U64: Final = 1 << 64


def evaluate(text: bytes) -> tuple[int, bytes]:
    """The value of the expression that `text` begins with, and what comes after it.

    Raises: WrongLineError, with what QEMU prints.
    """
    return _Reader(text).read()


class _Reader:
    """One expression."""

    def __init__(self, text: bytes) -> None:
        self._text, self._at = text, 0
        self._values: list[int] = []
        self._operators: list[bytes] = []  # waiting; two bytes for a sign, "(" for a bracket
        self._brackets = 0

    def read(self) -> tuple[int, bytes]:
        self._skip_space()
        self._operand()
        while self._operator():
            self._operand()
        return self._values[0], self._text[self._at :]

    def _operand(self) -> None:
        """Signs and brackets, and the number behind them."""
        while (char := self._char()) in (b"+", b"-", b"~", b"("):
            self._operators.append(char if char == b"(" else b"0" + char)
            self._brackets += char == b"("
            self._next()
        self._values.append(self._number(char))
        self._sign()

    def _operator(self) -> bool:
        """Brackets that end, and what follows them; True if an operand must follow."""
        while self._char() == b")" and self._brackets:
            self._reduce(0)
            self._operators.pop()
            self._brackets -= 1
            self._next()
            self._sign()
        char = self._char()
        level = _LEVELS.get(char, 0)
        self._reduce(level)
        if level:
            self._operators.append(char)
            self._next()
        elif self._brackets:
            raise WrongLineError("')' expected")
        return level > 0

    def _sign(self) -> None:
        """Apply the signs before the value that is whole now."""
        while self._operators and len(self._operators[-1]) > 1:
            value, sign = self._values[-1], self._operators.pop()
            self._values[-1] = wrap(~value if sign == b"0~" else -value if sign == b"0-" else value)

    def _reduce(self, level: int) -> None:
        """Apply what waits in this bracket and binds at least as strongly as `level`."""
        while self._operators and _LEVELS.get(self._operators[-1], 0) >= max(level, 1):
            right, left = self._values.pop(), self._values.pop()
            self._values.append(_apply(self._operators.pop(), left, right))

    def _number(self, char: bytes) -> int:
        if not char:
            raise WrongLineError("unexpected end of expression")
        if char == b"'":
            return self._character()
        if char == b"$":
            raise WrongLineError("unknown register")
        found = _NUMBER.match(self._text, self._at)
        if found is None:
            shown = char.decode(errors="replace")
            raise WrongLineError(f"invalid char '{shown}' in expression")
        self._at = found.end()
        self._skip_space()
        return wrap(_integer(found[0], 16 if found[1] else 8 if found[2] else 10))

    def _character(self) -> int:
        """The number of a byte between quotes."""
        quoted = self._text[self._at : self._at + 3]
        if len(quoted) < 2:
            raise WrongLineError("character constant expected")
        if quoted[2:] != b"'":
            raise WrongLineError("missing terminating ' character")
        self._at += 2
        self._next()
        return int.from_bytes(quoted[1:2], signed=True)

    def _char(self) -> bytes:
        return self._text[self._at : self._at + 1]

    def _next(self) -> None:
        self._at += 1
        self._skip_space()

    def _skip_space(self) -> None:
        while self._char() and self._char() in SPACE:
            self._at += 1


def _integer(digits: bytes, base: int) -> int:
    """Digits as C reads them. Raises: WrongLineError, beyond 64 bits."""
    significant = digits[2:] if base == 16 else digits
    significant = significant.lstrip(b"0") or b"0"
    value = int(significant, base) if len(significant) <= _DIGITS_MAX[base] else _U64
    if value >= _U64:
        raise WrongLineError("number too large")
    return value


def _apply(operator: bytes, left: int, right: int) -> int:
    match operator:
        case b"+":
            value = left + right
        case b"-":
            value = left - right
        case b"*":
            value = left * right
        case b"&":
            value = left & right
        case b"|":
            value = left | right
        case b"^":
            value = left ^ right
        case _:
            value = _divide(left, right, rest=operator == b"%")
    return wrap(value)


def _divide(left: int, right: int, *, rest: bool) -> int:
    """As C does, towards 0; what ends a QEMU, the least number by -1, wraps."""
    if right == 0:
        raise WrongLineError("division by zero")
    quotient = abs(left) // abs(right)
    if (left < 0) != (right < 0):
        quotient = -quotient
    return left - quotient * right if rest else quotient


def wrap(value: int) -> int:
    """The low 64 bits, with a sign."""
    return (value + _U64 // 2) % _U64 - _U64 // 2
