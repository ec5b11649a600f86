"""Clients that ask for more than their share, on a clock that stands still until the test says so.

What has not come when others were served twenty times would have come, if nobody waited.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.qmp_client import QmpClient
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.monitor.cpu_budget import BURST_S, CpuBudget
from ballonet.monitor.monitor import Monitor
from ballonet.monitor.outbox import Outbox
from ballonet.monitor.server import MonitorServer
from ballonet.qmp.commands import Command
from ballonet.vhost_user.listener import listening_socket

#: The fifth of these uses up the burst.
TASK_S = BURST_S / 4.5
COMMANDS = {"work": Command(lambda machine, _: machine.work()), "look": Command(lambda *_: {})}


class Machine:
    """A clock, and a processor that only commands use."""

    def __init__(self) -> None:
        self.now_s, self.cpu_s = 1000.0, 0.0

    def work(self) -> object:
        self.cpu_s += TASK_S
        return {}


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def qmp(machine: Machine, tmp_path: Path) -> Iterator[Path]:
    path, monitors = tmp_path / "qmp", MonitorServer()
    budget = CpuBudget(lambda: machine.now_s, lambda: machine.cpu_s)
    with listening_socket(path) as sock:
        monitors.start()
        monitors.add(Monitor(machine, [sock], Outbox(), commands=COMMANDS, budget=budget))
        try:
            yield path
        finally:
            monitors.stop()


def serve_a_while(client: QmpClient) -> None:
    """Let the monitor have turns enough for everything that does not wait."""
    for _ in range(20):
        assert client.ask("look") == {"return": {}}


def answers_to_come(client: QmpClient, other: QmpClient) -> int:
    """How many answers are there, when another client was served a while."""
    serve_a_while(other)
    return client.socket.recv(1 << 16, socket.MSG_DONTWAIT | socket.MSG_PEEK).count(b"return")


def test_a_client_that_floods_waits_and_the_other_one_does_not(machine: Machine, qmp: Path) -> None:
    with QmpClient(qmp).negotiate() as rude, QmpClient(qmp).negotiate() as other:
        rude.socket.sendall(b'{"execute": "work"}' * 100)
        wait_until(lambda: machine.cpu_s > BURST_S, PATIENCE_S, "nothing is done for it")
        assert answers_to_come(rude, other) <= 6
        machine.now_s += 10
        wait_until(lambda: machine.cpu_s > 2 * BURST_S, PATIENCE_S, "it has waited long enough")
        assert answers_to_come(rude, other) <= 12


def test_who_comes_again_has_no_new_burst(machine: Machine, qmp: Path) -> None:
    with QmpClient(qmp).negotiate() as other:
        for _ in range(2):
            with QmpClient(qmp).negotiate() as rude:
                for _ in range(4):
                    assert rude.ask("work") == {"return": {}}
            serve_a_while(other)  # it is noticed that it has left
        assert machine.cpu_s > BURST_S
        with QmpClient(qmp) as late:
            serve_a_while(other)
            ready, _, _ = select.select([late.socket], [], [], 0)
            assert ready == []
            machine.now_s += 10
            assert "QMP" in late.line()
