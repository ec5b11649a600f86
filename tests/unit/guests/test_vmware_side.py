"""VMware's balloon in the embedded guest: what becomes of calls when the host is lost."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from tests.support.sibling_guest import ANSWER, CALL, frame
from tests.support.wait import PATIENCE_S, wait_until
from tests.unit.guests.side_under_test import SideRig

from ballonet.guests.vmware_side import VmwareSide
from ballonet.kernel.tasks import Job
from ballonet.vmware.calls import Answer, Command, Status

RESET = Answer(Status.RESET, 0)


class Rig(SideRig[VmwareSide]):
    """... which makes calls of its own, beside those of its driver."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, VmwareSide)
        self.answers: list[Answer] = []
        thread = Thread(target=self.welcome)
        thread.start()
        self.side._link.connect()
        thread.join()

    def call(self) -> None:
        """A task of the guest's kernel asks for the target."""

        def ask() -> Job[None]:
            self.answers.append((yield from self.side._call(Command.GET_TARGET, 5, 0)))

        self.scheduler.spawn("call", ask())
        self.scheduler.run(0)

    def turn_until_answered(self, count: int) -> None:
        def look() -> bool:
            self.loop.turn(0)
            self.scheduler.run(0)
            return len(self.answers) == count

        wait_until(look, PATIENCE_S, "no answer")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "host")
    yield made
    made.close()


def asked(rig: Rig) -> None:
    """The host hears one call."""
    expected = frame(CALL, struct.pack("<IQQ", Command.GET_TARGET, 5, 0))
    assert rig.host.recv(len(expected), socket.MSG_WAITALL) == expected


def answer(rig: Rig, result: int) -> None:
    rig.host.sendall(frame(ANSWER, struct.pack("<IQ", 0, result)))


def test_answers_belong_to_calls_in_their_order(rig: Rig) -> None:
    rig.call()
    rig.call()
    asked(rig)
    asked(rig)
    answer(rig, 7)
    answer(rig, 8)
    rig.turn_until_answered(2)
    assert rig.answers == [Answer(0, 7), Answer(0, 8)]


def test_a_call_under_way_waits_for_another_host_and_hears_of_a_reset(rig: Rig) -> None:
    rig.call()
    rig.lose()
    rig.call()
    rig.scheduler.run(0)
    assert rig.answers == []  # nothing the lost host was given is the guest's yet
    rig.come_again()
    rig.turn_until_answered(2)
    assert rig.answers == [RESET, RESET]
    rig.call()
    asked(rig)
    answer(rig, 9)
    rig.turn_until_answered(3)
    assert rig.answers[2] == Answer(0, 9)


def test_the_first_call_after_a_loss_hears_of_a_reset_and_no_other(rig: Rig) -> None:
    rig.lose()
    rig.come_again()
    rig.call()
    assert rig.answers == [RESET]
    rig.call()
    asked(rig)
    answer(rig, 9)
    rig.turn_until_answered(2)
    assert rig.answers[1] == Answer(0, 9)


def test_an_answer_that_nothing_asked_for_ends_the_connection(rig: Rig) -> None:
    answer(rig, 1)
    rig.turn_until(connected=False)
