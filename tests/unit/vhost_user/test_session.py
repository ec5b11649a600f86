"""One front-end's session: messages in, answers out, rings that run when all is known."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations

import pytest
from tests.support.clock import FakeClock
from tests.support.surroundings import Surroundings

from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.device.state import state_of
from ballonet.errors import SessionError, WireError
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.regions import Region
from ballonet.vhost_user.messages import (
    HEADER,
    PROTOCOL_FEATURES_BIT,
    U64,
    ConfigAccess,
    LogArea,
    Message,
    ProtocolFeature,
    Request,
    VringAddresses,
    VringState,
    pack_mem_table,
)
from ballonet.vhost_user.requests.dispatch import dispatch
from ballonet.vhost_user.session import Session
from ballonet.vhost_user.vring import FdKind
from ballonet.virtio.features import Feature

SIZE = 1 << 20
UVA = 0x7F00_0000_0000
TABLE = [Region(0, SIZE, UVA, 0)]
ENTRIES = 16
NEED_REPLY = 8
EVERY_PROTOCOL = sum(ProtocolFeature)
PARTS = ("memory", "num", "base", "addresses", "kick", "enable")


@dataclass
class Fds:
    """Descriptors as the session hands them on."""

    put: list[tuple[int, FdKind, int | None]] = field(default_factory=list)
    states: dict[int, bytes] = field(default_factory=dict)  #: by descriptor
    last_fd: int = -1  #: from which one is read

    def put_vring_fd(self, queue: int, kind: FdKind, fd: int | None) -> None:
        self.put.append((queue, kind, fd))

    def set_channel(self, fd: int) -> None:
        raise NotImplementedError

    def set_log(self, fd: int, area: LogArea) -> None:
        raise NotImplementedError

    def mark_dirty(self, gpa: int, length: int) -> None:
        raise NotImplementedError

    def send_state(self, fd: int, blob: bytes) -> None:
        self.states[fd] = blob

    def receive_state(self, fd: int) -> None:
        self.last_fd = fd

    def state_outcome(self) -> bytes:
        return self.states.pop(self.last_fd, b"")


@dataclass
class FrontEnd:
    """Sends messages."""

    session: Session
    fd: int  #: of guest memory
    fds: Fds

    def send(
        self,
        code: Request,
        payload: bytes = b"",
        fds: tuple[int, ...] = (),
        *,
        need_reply: bool = False,
    ) -> list[bytes]:
        """Returns the payloads of what was answered."""
        message = Message(code, 1 | (NEED_REPLY if need_reply else 0), payload, fds)
        answer = dispatch(self.session, message)
        if answer is None:
            return []
        assert HEADER.unpack_from(answer)[0] == code
        return [answer[HEADER.size :]]

    @property
    def memory(self) -> GuestMemory:
        memory = self.session.memory
        assert isinstance(memory, GuestMemory)
        return memory

    def say(self, part: str, queue: int = 0, *, base: int = 0) -> None:
        """One of the things a ring needs."""
        at = UVA + queue * 0x10000
        match part:
            case "memory":
                self.send(Request.SET_MEM_TABLE, pack_mem_table(TABLE), (self.fd,))
            case "num":
                self.send(Request.SET_VRING_NUM, VringState(queue, ENTRIES).pack())
            case "base":
                self.send(Request.SET_VRING_BASE, VringState(queue, base).pack())
            case "addresses":
                addresses = VringAddresses(queue, 0, at, at + 0x2000, at + 0x1000, 0)
                self.send(Request.SET_VRING_ADDR, addresses.pack())
            case "kick":
                self.send(Request.SET_VRING_KICK, U64.pack(queue), (99,))
            case "enable":
                self.send(Request.SET_VRING_ENABLE, VringState(queue, 1).pack())

    def start(self, *queues: int, base: int = 0) -> None:
        """All of them."""
        self.accept(Feature.VERSION_1 | Feature.STATS_VQ)
        self.say("memory")
        for queue in queues:
            for part in PARTS[1:]:
                self.say(part, queue, base=base)

    def accept(self, features: int) -> None:
        self.send(Request.SET_FEATURES, U64.pack(features | PROTOCOL_FEATURES_BIT))

    @property
    def running(self) -> list[int]:
        return [queue for queue in range(5) if self.session.balloon.queues.is_attached(queue)]


def connect(balloon: Balloon, fd: int) -> FrontEnd:
    memory, fds = GuestMemory(), Fds()
    balloon.connect(memory, Surroundings(memory))
    front_end = FrontEnd(Session(balloon, memory, fds, lambda: None), fd, fds)
    front_end.send(Request.GET_FEATURES)
    front_end.send(Request.SET_PROTOCOL_FEATURES, U64.pack(EVERY_PROTOCOL))
    return front_end


def hang_up(front_end: FrontEnd) -> None:
    front_end.session.close()
    front_end.memory.close()


@pytest.fixture
def balloon() -> Balloon:
    return Balloon(BalloonSettings(), FakeClock())


@pytest.fixture
def memory_fd() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def front_end(balloon: Balloon, memory_fd: int) -> Iterator[FrontEnd]:
    made = connect(balloon, memory_fd)
    yield made
    hang_up(made)


@pytest.mark.parametrize("last", ["memory", "num", "addresses", "kick", "enable"])
def test_a_ring_runs_when_the_last_thing_it_needs_is_known(front_end: FrontEnd, last: str) -> None:
    front_end.accept(Feature.VERSION_1)
    for part in PARTS:
        if part != last:
            front_end.say(part)
            assert front_end.running == []
    front_end.say(last)
    assert front_end.running == [0]
    assert 0 in front_end.session.vrings.to_serve  # what the driver put there before is looked at


def test_a_ring_runs_in_whatever_order_it_is_described(balloon: Balloon, memory_fd: int) -> None:
    for order in list(permutations(PARTS))[::7]:
        front_end = connect(balloon, memory_fd)
        front_end.accept(Feature.VERSION_1)
        for part in order:
            front_end.say(part)
        assert front_end.running == [0], order
        hang_up(front_end)


def test_without_bit_30_rings_need_not_be_enabled(front_end: FrontEnd) -> None:
    front_end.send(Request.SET_FEATURES, U64.pack(int(Feature.VERSION_1)))
    for part in PARTS[:-1]:
        front_end.say(part)
    assert front_end.running == [0]


def test_a_disabled_ring_stands_still_and_goes_on_where_it_was(front_end: FrontEnd) -> None:
    for index_at in (0x1002, 0x2002):  # available and used: seven chains came and were answered
        os.pwrite(front_end.fd, (7).to_bytes(2, "little"), index_at)
    front_end.start(0, 1, base=7)
    front_end.send(Request.SET_VRING_ENABLE, VringState(0, 0).pack())
    assert front_end.running == [1]
    front_end.say("enable")
    assert front_end.running == [0, 1]
    assert front_end.send(Request.GET_VRING_BASE, VringState(0, 0).pack()) == [
        VringState(0, 7).pack()
    ]


def test_asking_for_a_base_stops_the_ring_and_takes_its_descriptors_away(
    front_end: FrontEnd,
) -> None:
    front_end.start(0, 1)
    front_end.fds.put.clear()
    front_end.send(Request.GET_VRING_BASE, VringState(0, 0).pack())
    assert front_end.running == [1]
    assert front_end.fds.put == [(0, FdKind.KICK, None), (0, FdKind.CALL, None)]
    front_end.say("enable")
    assert front_end.running == [1]  # it has no kick
    front_end.say("kick")
    assert front_end.running == [0, 1]


def test_new_memory_that_lacks_a_ring_is_refused_and_the_other_ring_runs(
    front_end: FrontEnd,
) -> None:
    front_end.start(0, 1)
    table = pack_mem_table([Region(0x10000, SIZE - 0x10000, UVA + 0x10000, 0x10000)])
    with pytest.raises(SessionError, match="outside memory"):
        front_end.send(Request.SET_MEM_TABLE, table, (front_end.fd,))
    assert front_end.running == [1]


@pytest.mark.parametrize("code", [Request.RESET_DEVICE, Request.SET_STATUS])
def test_a_reset_stops_all_rings_and_keeps_the_target(front_end: FrontEnd, code: Request) -> None:
    front_end.start(0, 1, 2)
    front_end.session.balloon.set_target(77)
    front_end.send(code, U64.pack(0) if code is Request.SET_STATUS else b"")
    assert front_end.running == []
    assert front_end.session.vrings.to_serve == set()
    assert not front_end.session.balloon.negotiated
    assert front_end.session.balloon.target_pages == 77


def test_a_status_other_than_0_changes_nothing_and_is_told_back(front_end: FrontEnd) -> None:
    front_end.start(0)
    front_end.send(Request.SET_STATUS, U64.pack(0x0F))
    assert front_end.send(Request.GET_STATUS) == [U64.pack(0x0F)]
    assert front_end.running == [0]


def test_features_that_were_not_offered_are_refused_and_change_nothing(
    front_end: FrontEnd,
) -> None:
    front_end.start(0)
    before = front_end.session.vrings.features
    with pytest.raises(SessionError, match="not offered"):
        front_end.accept(Feature.VERSION_1 | Feature.PAGE_REPORTING)
    assert front_end.session.vrings.features == before
    assert front_end.running == [0]


def test_features_may_be_repeated_while_rings_run(front_end: FrontEnd) -> None:
    front_end.start(0, 1)
    front_end.accept(Feature.VERSION_1 | Feature.STATS_VQ)
    assert front_end.running == [0, 1]


def test_asking_for_features_again_stops_the_rings_of_a_driver_without_bit_30(
    front_end: FrontEnd,
) -> None:
    front_end.send(Request.SET_FEATURES, U64.pack(int(Feature.VERSION_1)))
    for part in PARTS[:-1]:
        front_end.say(part)
    front_end.send(Request.GET_FEATURES)
    assert front_end.running == []


def test_an_acknowledgement_comes_where_it_was_asked_for_and_negotiated(
    front_end: FrontEnd,
) -> None:
    assert front_end.send(Request.SET_OWNER, need_reply=True) == [U64.pack(0)]
    assert front_end.send(Request.SET_OWNER) == []
    assert len(front_end.send(Request.GET_FEATURES, need_reply=True)) == 1  # its own answer
    without = EVERY_PROTOCOL & ~ProtocolFeature.REPLY_ACK
    front_end.send(Request.SET_PROTOCOL_FEATURES, U64.pack(without))
    assert front_end.send(Request.SET_OWNER, need_reply=True) == []


@pytest.mark.parametrize(
    ("code", "bit"),
    [
        (Request.GET_QUEUE_NUM, ProtocolFeature.MQ),
        (Request.RESET_DEVICE, ProtocolFeature.RESET_DEVICE),
        (Request.GET_STATUS, ProtocolFeature.STATUS),
        (Request.GET_MAX_MEM_SLOTS, ProtocolFeature.CONFIGURE_MEM_SLOTS),
    ],
)
def test_a_request_of_a_feature_that_was_not_negotiated_is_refused(
    front_end: FrontEnd, code: Request, bit: ProtocolFeature
) -> None:
    front_end.send(code)
    front_end.send(Request.SET_PROTOCOL_FEATURES, U64.pack(EVERY_PROTOCOL & ~bit))
    with pytest.raises(SessionError, match="not negotiated"):
        front_end.send(code)


@pytest.mark.parametrize("queue", [5, 255, 0xFFFF_FFFF])
def test_a_queue_that_does_not_exist_is_refused(front_end: FrontEnd, queue: int) -> None:
    for code in (Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.GET_VRING_BASE):
        with pytest.raises(SessionError, match=f"queue {queue} of 5"):
            front_end.send(code, struct.pack("=II", queue, 1))


def test_a_configuration_is_read_and_written_and_its_reach_is_noted(front_end: FrontEnd) -> None:
    balloon, session = front_end.session.balloon, front_end.session
    balloon.set_target(3)
    (answer,) = front_end.send(Request.GET_CONFIG, ConfigAccess(0, 0, bytes(4)).pack())
    assert ConfigAccess.parse(answer) == ConfigAccess(0, 0, b"\3\0\0\0")
    assert session.config_end == 4
    front_end.send(Request.SET_CONFIG, ConfigAccess(4, 0, b"\2\0\0\0").pack())
    assert (balloon.actual_pages, session.config_end) == (2, 8)


@pytest.mark.parametrize(("base", "actual"), [(0, 0), (5, 64)])
def test_a_lost_connection_keeps_the_balloon_of_a_driver_that_goes_on(
    balloon: Balloon, memory_fd: int, base: int, actual: int
) -> None:
    first = connect(balloon, memory_fd)
    first.start(0, 1)
    first.send(Request.SET_CONFIG, ConfigAccess(4, 0, b"\x40\0\0\0").pack())
    hang_up(first)
    assert (balloon.actual_pages, state_of(balloon).actual_pages) == (0, 64)
    second = connect(balloon, memory_fd)
    os.pwrite(memory_fd, base.to_bytes(2, "little"), 0x2002)  # the used index
    second.start(0, base=base)
    assert balloon.actual_pages == actual
    hang_up(second)


def test_a_message_of_the_wrong_shape_is_no_effect_at_all(front_end: FrontEnd) -> None:
    front_end.start(0)
    front_end.fds.put.clear()
    with pytest.raises(WireError):
        front_end.send(Request.SET_VRING_ENABLE, bytes(7))
    assert front_end.fds.put == []
    assert front_end.running == [0]
