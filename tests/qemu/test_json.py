"""Odd input is answered by our monitor as a real QEMU answers it."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from tests.qemu.json_corpus import CORPUS

_PATIENCE_S: Final = 60.0
#: Ends whatever was begun: this byte is in no text.
_RESET: Final = b"\xff\n"
_MARK: Final = b'{"execute": "x", "id": "mark"}\n'


def answers(path: Path, inputs: tuple[bytes, ...]) -> list[list[Any]]:
    """What each of the inputs is answered."""
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.settimeout(_PATIENCE_S)
        sock.connect(str(path))
        file = stack.enter_context(sock.makefile("rb"))
        file.readline()
        sock.sendall(b'{"execute": "qmp_capabilities"}\n')
        file.readline()
        found = []
        for text in inputs:
            sock.sendall(text + _RESET + _MARK)
            replies: list[Any] = []
            while not replies or replies[-1].get("id") != "mark":
                replies.append(json.loads(file.readline()))
            found.append(replies[:-1])
        return found


def test_odd_input_is_answered_as_qemu_answers_it(bare_qemu: Path, our_monitor: Path) -> None:
    theirs, ours = answers(bare_qemu, CORPUS), answers(our_monitor, CORPUS)
    different = [
        (text, said, we_said)
        for text, said, we_said in zip(CORPUS, theirs, ours, strict=True)
        if said != we_said or types_of(said) != types_of(we_said)
    ]
    assert different == []
    assert len(CORPUS) > 200


_TYPES: Final = {int: float}


def types_of(value: Any) -> Any:  # noqa: ANN401 - JSON
    """The same value with types for scalars: 1 and true are equal in Python.

    1 and 1.0 are the same number, as QEMU writes it and as we do.
    """
    if isinstance(value, dict):
        return {name: types_of(member) for name, member in value.items()}
    return (
        [types_of(one) for one in value]
        if isinstance(value, list)
        else _TYPES.get(type(value), type(value))
    )
