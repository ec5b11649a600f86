"""Lines of people are answered by our monitor as a real QEMU answers them."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Final, Self

from tests.qemu.hmp_corpus import EXPRESSIONS, LINES

from ballonet.qmp.errors import WrongLineError
from ballonet.qmp.expression import evaluate

_PATIENCE_S: Final = 60.0


class Talk:
    """A connected client; a context manager."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_PATIENCE_S)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")
        self._file.readline()

    def __enter__(self) -> Self:
        self.ask("qmp_capabilities")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
        """The whole reply; events on the way are ignored."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "event" in (reply := json.loads(self._file.readline())):
            pass
        return reply

    def human(self, line: str) -> Any:  # noqa: ANN401 - JSON
        """What a line prints."""
        return self.ask("human-monitor-command", **{"command-line": line})


def test_odd_lines_are_answered_as_qemu_answers_them(bare_qemu: Path, our_monitor: Path) -> None:
    with Talk(bare_qemu) as qemu, Talk(our_monitor) as ours:
        for talk in (qemu, ours):
            talk.human("cont")
        theirs = [(line, qemu.human(line)) for line in LINES]
        said = [(line, ours.human(line)) for line in LINES]
    assert [one for one in zip(theirs, said, strict=True) if one[0] != one[1]] == []


def test_expressions_have_the_value_they_have_in_qemu(bare_qemu: Path) -> None:
    different = []
    with Talk(bare_qemu) as qemu:
        for text in EXPRESSIONS:
            printed = qemu.human(f"print/d {text}")["return"]
            if printed != (ours := f"{value_of(text)}\r\n") and not printed.startswith(ours):
                different.append((text, printed, ours))
    assert different == []


def value_of(text: str) -> str:
    """The value, or what is wrong."""
    try:
        value, more = evaluate(text.encode().replace(b"\0", b"\xc0\x80"))
    except WrongLineError as error:
        return str(error)
    return "print|p: extraneous characters at the end of line" if more else str(value)
