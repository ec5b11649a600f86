"""Answers of the laboratory about guests that move, each run every time: faults rest on them."""

from __future__ import annotations

import select
import socket
from pathlib import Path

import pytest
from tests.support.wait import PATIENCE_S, holds

from ballonet.lab.experiment import Kernel, perform
from ballonet.lab.gate import Gate
from ballonet.lab.notebook import Notebook
from ballonet.lab.questions import find
from ballonet.vhost_user.listener import listening_socket


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("sent-and-cleared", Kernel.HOST),
        ("dirty-not-lost", Kernel.EMBEDDED),
        ("balloon-moves", Kernel.EMBEDDED),
    ],
)
def test_what_is_seen_supports_the_answer(name: str, kernel: Kernel) -> None:
    perform(find(name), Notebook(), kernel)


def test_a_gate_holds_back_what_comes_after_the_first_bytes(tmp_path: Path) -> None:
    with (
        listening_socket(tmp_path / "there") as listening,
        Gate(tmp_path / "gate", f"unix:{tmp_path / 'there'}", 5) as gate,
        socket.socket(socket.AF_UNIX) as here,
    ):
        here.connect(gate.uri.removeprefix("unix:"))
        there, _ = listening.accept()
        with there:
            for sock in (here, there):
                sock.settimeout(PATIENCE_S)
            here.sendall(b"first")
            assert there.recv(100) == b"first"
            here.sendall(b"second")
            there.sendall(b"answer")
            assert here.recv(100) == b"answer"
            assert holds(lambda: not select.select([there], [], [], 0)[0], 0.2)
            gate.open()
            assert there.recv(100) == b"second"
            here.shutdown(socket.SHUT_WR)
            assert there.recv(100) == b""


def test_a_gate_ends_though_nobody_came(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate", "unix:nowhere", 0)
    with gate:
        pass
    with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as late:
        late.connect(gate.uri.removeprefix("unix:"))
