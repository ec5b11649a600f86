"""The lines of QEMU's test protocol.

A command is a line of words; the answer is ``OK [value]`` or ``FAIL why``.  Interrupt lines may
come at any time: ``IRQ raise N`` and ``IRQ lower N``.
Source: QEMU softmmu/qtest.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from ballonet.errors import WireError

__all__ = ["Answer", "InterruptLine", "command", "parse_line"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command."""

    is_ok: bool
    text: str

    @property
    def number(self) -> int:
        """The value of a read."""
        return int(self.text, 0)


@dataclass(frozen=True, slots=True)
class InterruptLine:
    """An intercepted line went up or down."""

    number: int
    is_raised: bool


def command(verb: str, *operands: int) -> bytes:
    """A command with numbers, as QEMU reads them."""
    return " ".join((verb, *(hex(operand) for operand in operands))).encode() + b"\n"


def parse_line(line: bytes) -> Answer | InterruptLine:
    """What QEMU says. Raises: WireError."""
    match line.decode("ascii", "replace").split():
        case ["OK", *words]:
            return Answer(is_ok=True, text=" ".join(words))
        case ["FAIL" | "ERR" | "FAILED", *words]:
            return Answer(is_ok=False, text=" ".join(words))
        case ["IRQ", "raise" | "lower" as edge, number] if number.isdecimal():
            return InterruptLine(int(number), edge == "raise")
        case _:
            raise WireError("qtest line", line[:80], "must be OK, FAIL or IRQ", "QEMU qtest.c")
