"""A guest's end of the link: a host that says what no host says, goes away, or comes again."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from tests.support.sibling_guest import (
    ANSWER,
    CALL,
    DOORBELL,
    MESSAGE,
    REFUSAL,
    WELCOME,
    frame,
    hello,
)
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.errors import GuestError, WireError
from ballonet.memory.regions import Region
from ballonet.runtime.event_loop import EventLoop
from ballonet.siblings.framing import Frame, FrameKind, Hello
from ballonet.siblings.guest_link import GuestLink

HELLO = hello("vmware", [(0, 4096, 0)])


class Rig:
    """A link, and the socket at which the test is its host."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(PATIENCE_S)
        self.listener.bind(str(path))
        self.listener.listen()
        self.host: socket.socket | None = None
        self.loop = EventLoop()
        self.memory_fd = os.memfd_create("link")
        self.received: list[Frame] = []
        self.found_again = 0
        self.link = GuestLink(
            self.loop,
            path,
            Hello("vmware", (Region(0, 4096, 0, 0),)),
            [self.memory_fd],
            received=self._take,
            found_again=self._found_again,
        )

    def _take(self, frame_: Frame) -> None:
        if frame_.kind is FrameKind.CALL:
            raise WireError("frame", "CALL", "is a guest's", "here")
        self.received.append(frame_)

    def _found_again(self) -> None:
        self.found_again += 1

    def accept(self, answer: bytes) -> None:
        """Be the host of the guest that connects."""
        if self.host is not None:
            self.host.close()
        self.host, _ = self.listener.accept()
        self.host.settimeout(PATIENCE_S)
        data, fds, _, _ = socket.recv_fds(self.host, 1 << 10, 8)
        assert data == HELLO
        assert len(fds) == 1
        for fd in fds:
            os.close(fd)
        self.host.sendall(answer)

    def connect(self, answer: bytes = frame(WELCOME)) -> None:
        """Let the guest connect, to a host that answers so."""
        thread = Thread(target=self.accept, args=[answer])
        thread.start()
        try:
            self.link.connect()
        finally:
            thread.join()

    def turn_until_lost(self) -> None:
        """The guest notices that its host is none."""
        self.turn_until(not_connected=True)

    def turn_until(self, *, not_connected: bool) -> None:
        def look() -> bool:
            self.loop.turn(0)
            return self.link.is_connected is not not_connected

        wait_until(look, PATIENCE_S, "the link stays as it is")

    def close(self) -> None:
        self.link.close()
        self.loop.close()
        self.listener.close()
        os.close(self.memory_fd)
        if self.host is not None:
            self.host.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "host")
    yield made
    made.close()


def test_what_the_host_says_arrives_whole_and_in_order(rig: Rig) -> None:
    rig.connect()
    assert rig.host is not None
    raw = frame(DOORBELL, bytes(16)) + frame(ANSWER, bytes(12))
    for at in range(len(raw)):
        rig.host.sendall(raw[at : at + 1])
        rig.loop.turn(0)
    assert [one.kind for one in rig.received] == [FrameKind.DOORBELL, FrameKind.ANSWER]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (frame(REFUSAL, b"not you"), "refuses the guest: not you"),
        (b"HTTP/1.1 400 Bad Request\r\n", "says what no host says"),
        (struct.pack("<II", 1 << 30, MESSAGE), "says what no host says"),
        (frame(ANSWER, bytes(12)), "refuses the guest"),
    ],
)
def test_a_host_that_does_not_welcome_the_guest_is_an_error_at_boot(
    rig: Rig, answer: bytes, words: str
) -> None:
    with pytest.raises(GuestError, match=words):
        rig.connect(answer)
    assert not rig.link.is_connected


def test_nobody_at_the_path_is_an_error_at_boot(rig: Rig) -> None:
    rig.listener.close()
    with pytest.raises(GuestError, match="no host of vmware answers"):
        rig.link.connect()


@pytest.mark.parametrize(
    "raw", [b"x" * 64, struct.pack("<II", 0xFFFF_FFFF, MESSAGE), frame(CALL, bytes(20))]
)
def test_a_host_that_says_what_none_says_is_left_and_another_one_looked_for(
    rig: Rig, raw: bytes
) -> None:
    rig.connect()
    assert rig.host is not None
    rig.host.sendall(raw)
    rig.turn_until_lost()
    assert not rig.link.send(FrameKind.CALL, bytes(20))
    assert rig.link.deadline_ns is not None
    rig.link.reconnect()
    rig.accept(frame(WELCOME))
    rig.turn_until(not_connected=False)
    assert (rig.found_again, rig.link.reconnections) == (1, 1)


def test_a_host_is_believed_only_when_it_has_welcomed_the_guest_again(rig: Rig) -> None:
    rig.connect()
    assert rig.host is not None
    rig.host.close()
    rig.turn_until_lost()
    rig.link.reconnect()
    rig.accept(b"")
    rig.loop.turn(0)
    assert not rig.link.is_connected
    assert not rig.link.send(FrameKind.CALL, bytes(20))
    assert rig.host is not None
    rig.host.sendall(frame(ANSWER, bytes(12)))
    wait_until(
        lambda: rig.loop.turn(0) or rig.link.deadline_ns is not None, PATIENCE_S, "still believed"
    )
    assert rig.received == []
    assert rig.found_again == 0


def test_a_host_that_sends_descriptors_is_none(rig: Rig) -> None:
    rig.connect()
    assert rig.host is not None
    socket.send_fds(rig.host, [frame(DOORBELL, bytes(16))], [rig.memory_fd])
    rig.turn_until_lost()


def test_a_lost_host_is_not_looked_for_all_the_time(rig: Rig) -> None:
    rig.connect()
    assert rig.host is not None
    rig.host.close()
    rig.turn_until_lost()
    rig.listener.close()
    rig.link.reconnect()
    first_ns = rig.link.deadline_ns
    rig.link.reconnect()
    assert first_ns is not None
    assert rig.link.deadline_ns == first_ns
