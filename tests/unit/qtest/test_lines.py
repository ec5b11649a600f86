"""Lines of QEMU's test protocol."""

from __future__ import annotations

import pytest

from ballonet.errors import WireError
from ballonet.qtest.lines import Answer, InterruptLine, command, parse_line


def test_commands_and_answers() -> None:
    assert command("writel", 0xFEB00E00, 3) == b"writel 0xfeb00e00 0x3\n"
    answer = parse_line(b"OK 0x0000000000000074")
    assert isinstance(answer, Answer)
    assert answer.is_ok
    assert answer.number == 0x74
    assert parse_line(b"FAIL Unknown command 'x'") == Answer(
        is_ok=False, text="Unknown command 'x'"
    )


def test_interrupts() -> None:
    assert parse_line(b"IRQ raise 22") == InterruptLine(22, is_raised=True)
    assert parse_line(b"IRQ lower 22") == InterruptLine(22, is_raised=False)


@pytest.mark.parametrize("line", [b"", b"\xff\xfe", b"IRQ", b"IRQ raise x", b"HELLO"])
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        parse_line(line)
