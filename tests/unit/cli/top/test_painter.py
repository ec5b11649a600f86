"""What is sent to a terminal."""

from __future__ import annotations

import re

import pytest
from rich.text import Text

from ballonet.cli.top.painter import Painter


def plain(data: bytes) -> str:
    """Without colours and the marks around it."""
    text = data.decode().removeprefix("\x1b[?2026h").removesuffix("\x1b[?2026l")
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_only_lines_that_have_changed_are_sent() -> None:
    painter = Painter()
    assert plain(painter.paint([Text("one"), Text("two")], 80)) == (
        "\x1b[2J\x1b[1;1H\x1b[Kone\x1b[2;1H\x1b[Ktwo"
    )
    assert plain(painter.paint([Text("one"), Text("2")], 80)) == "\x1b[2;1H\x1b[K2"
    assert painter.paint([Text("one"), Text("2")], 80) == b""
    painter.forget()
    assert plain(painter.paint([Text("one")], 80)) == "\x1b[2J\x1b[1;1H\x1b[Kone"


def test_a_line_that_is_too_long_ends_at_the_edge() -> None:
    assert plain(Painter().paint([Text("x" * 100)], 80)).endswith("K" + "x" * 80)


@pytest.mark.parametrize("wants_none", [False, True])
def test_no_colour_is_sent_to_whoever_wants_none(
    wants_none: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if wants_none:
        monkeypatch.setenv("NO_COLOR", "1")
    data = Painter().paint([Text("bad", style="bold red")], 80)
    assert (b"31m" in data) is not wants_none
