"""What a machine does while its guest arrives, with an engine that says it all at once."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from ballonet.errors import MigrationError
from ballonet.guests import postcopy_arrival as module_under_test
from ballonet.guests.migration_destination import MigrationDestination
from ballonet.guests.postcopy_arrival import PostcopyArrival
from ballonet.memory.shared_file import SharedFile
from ballonet.migration.channels import SocketChannel
from ballonet.migration.framing import RecordReader, RecordWriter
from ballonet.migration.receiver import receive_record
from ballonet.migration.records import BACKWARD, Begin, Failed, GuestRegion
from ballonet.migration.rendezvous import Listener
from ballonet.migration.userfault import Userfault
from ballonet.runtime.event_loop import EventLoop

SIZE = 1 << 20
BEGIN = Begin((GuestRegion(0, SIZE, 4096),), has_checksums=True, may_postcopy=True, migration_id=7)
REFUSAL = "userfaultfd is not allowed here (Permission denied): set sysctl"


class FakeEngine:
    """Says what it was given, all of it in one piece, and is gone."""

    messages: Sequence[dict[str, Any]] = ()

    def __init__(
        self,
        module: str,
        heard: Callable[[dict[str, Any]], None],
        lost: Callable[[], None],
        inherited: Sequence[int],
    ) -> None:
        assert module == "ballonet.migration.receiving_engine"
        assert len(set(inherited)) == 4
        self._heard, self._lost = heard, lost
        self.sock, self._theirs = socket.socketpair()
        self._theirs.sendall(b"".join(json.dumps(one).encode() + b"\n" for one in self.messages))
        self.said: list[dict[str, Any]] = []

    def hear(self) -> None:
        """All that it says, and its end."""
        messages, self.messages = self.messages, ()
        for message in messages:
            self._heard(message)
        if not messages:
            self._lost()

    def say(self, message: dict[str, Any], raw: bytes = b"", fd: int | None = None) -> None:
        """Keep it."""
        del raw, fd
        self.said.append(message)

    def watch(self, _: EventLoop) -> None:
        """It has nothing more to say."""
        self.hear()

    def end(self) -> None:
        """Close both ends."""
        self.sock.close()
        self._theirs.close()


class FakeMachine:
    """Memory, and whether it was ended."""

    def __init__(self, memory: SharedFile) -> None:
        self.memory, self.loop = memory, None
        self.is_ended = False
        self.driver = SimpleNamespace(memory=[(0, 16)])

    def stop(self) -> None:
        """It is to end."""
        self.is_ended = True


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    with SharedFile("arrival", SIZE) as memory:
        yield FakeMachine(memory)


@pytest.fixture
def road() -> Iterator[tuple[SocketChannel, SocketChannel, Listener]]:
    """Both ends of a channel, and where more would come."""
    here, there = socket.socketpair()
    with (
        SocketChannel(here, "here") as channel,
        SocketChannel(there, "there") as source,
        socket.socket(socket.AF_UNIX) as listening,
    ):
        yield channel, source, Listener(listening, "unix:in", 1)


def arrive(
    machine: FakeMachine,
    road: tuple[SocketChannel, SocketChannel, Listener],
    monkeypatch: pytest.MonkeyPatch,
    *messages: dict[str, Any],
) -> PostcopyArrival:
    monkeypatch.setattr(module_under_test, "EngineProcess", FakeEngine)
    monkeypatch.setattr(FakeEngine, "messages", messages)
    channel, _, listener = road
    arrival = PostcopyArrival(machine, channel, listener, BEGIN)  # type: ignore[arg-type]
    try:
        arrival.receive()
        arrival.follow(ExitStack())
    finally:
        arrival.close()
    return arrival


WATCH = {"ask": "watch"}
GO = {"tell": "go", "paused": False}
DONE = {"tell": "status", "status": "completed", "reason": None}


@pytest.mark.parametrize("messages", [[GO, DONE], [WATCH, GO, DONE], [WATCH, GO, GO, DONE]])
def test_a_guest_whose_memory_comes_at_once_is_whole(
    machine: FakeMachine,
    road: tuple[SocketChannel, SocketChannel, Listener],
    monkeypatch: pytest.MonkeyPatch,
    messages: list[dict[str, Any]],
) -> None:
    arrival = arrive(machine, road, monkeypatch, *messages)
    assert arrival.is_whole
    assert not machine.is_ended


def test_a_guest_whose_memory_does_not_come_any_more_is_ended(
    machine: FakeMachine,
    road: tuple[SocketChannel, SocketChannel, Listener],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrival = arrive(machine, road, monkeypatch, WATCH, GO)
    assert machine.is_ended
    assert arrival.query()["error-desc"] == (
        "the processes that receive the guest's memory are gone"
    )


def test_a_guest_that_did_not_get_so_far_is_the_sources(
    machine: FakeMachine,
    road: tuple[SocketChannel, SocketChannel, Listener],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(MigrationError, match="are gone"):
        arrive(machine, road, monkeypatch, WATCH)
    assert not machine.is_ended


def test_whoever_may_not_have_memory_watched_says_so_before_anything_is_sent(
    machine: FakeMachine,
    road: tuple[SocketChannel, SocketChannel, Listener],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> Userfault:
        raise MigrationError(REFUSAL)

    monkeypatch.setattr(Userfault, "open", refuse)
    channel, source, listener = road
    source.send(RecordWriter().pack(BEGIN))
    destination = MigrationDestination(machine, channel, listener)  # type: ignore[arg-type]
    monkeypatch.setattr(destination, "_drain", lambda: None)
    with pytest.raises(MigrationError) as caught:
        destination.receive()
    answer = receive_record(source, RecordReader(BACKWARD))
    assert isinstance(answer, Failed)
    assert answer.reason == str(caught.value) == REFUSAL
