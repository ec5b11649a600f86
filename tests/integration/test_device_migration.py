"""What a migration asks of a device, by our own front-end: its log, its stop, its state."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.integration.device_under_test import SECONDS, Device, DeviceProcess, running_device
from tests.integration.test_bad_back_ends import BackEnd, answer_well, front_end_of, reply
from tests.support.wait import wait_until
from tests.support.wire import U64, Req

from ballonet.conform.device.session import DeviceSession
from ballonet.conform.device.vhost_user_rig import VhostUserRig
from ballonet.device.balloon import BalloonSettings
from ballonet.device.moved_state import MovedState
from ballonet.errors import GuestError, UsageError
from ballonet.vhost_user import device_migration
from ballonet.vhost_user.device_migration import DeviceMigration
from ballonet.vhost_user.frontend import FrontEnd
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES, Feature
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.packed import packed_area_bytes
from ballonet.virtio.ring.split import split_area_bytes

OFFER = RING_FEATURES | BALLOON_FEATURES | Feature.RING_PACKED
SPLIT = BALLOON_FEATURES | Feature.EVENT_IDX | Feature.VERSION_1
both_formats = pytest.mark.parametrize("wanted", [SPLIT, SPLIT | Feature.RING_PACKED])


@pytest.fixture
def settings() -> BalloonSettings:
    return BalloonSettings(OFFER, defers=False)


@contextmanager
def driving(path: Path, wanted: Feature = SPLIT) -> Iterator[tuple[DeviceSession, DeviceMigration]]:
    with VhostUserRig(path).session(wanted) as session:
        yield session, front_end(session).migration


def front_end(session: DeviceSession) -> FrontEnd:
    assert isinstance(session.transport, FrontEnd)
    return session.transport


def written(session: DeviceSession, role: QueueRole) -> set[int]:
    """Pages of a ring that the device writes."""
    ring = session.rings[role]
    desc, _, used = ring.place
    if Feature.RING_PACKED in session.negotiated:
        sizes = packed_area_bytes(ring.size)
        areas = [(desc, sizes[0]), (used, sizes[2])]
    else:
        areas = [(used, split_area_bytes(ring.size)[2])]
    return {
        page for gpa, length in areas for page in range(gpa >> 12, ((gpa + length - 1) >> 12) + 1)
    }


def inflate(session: DeviceSession) -> None:
    session.inflate(session.memory.pages(1))


def serve(session: DeviceSession, device: Device) -> None:
    """Inflate, and wait until the device has nothing more to do."""
    inflate(session)
    device.settle()


@both_formats
def test_what_the_device_writes_is_logged_while_it_is_asked_for(
    device: Device, wanted: Feature
) -> None:
    with driving(device.path, wanted) as (session, migration):
        serve(session, device)
        migration.start_log()
        device.settle()
        migration.take_log()
        serve(session, device)
        assert set(migration.take_log().tolist()) == written(session, QueueRole.INFLATE)
        device.settle()
        assert not migration.take_log().size
        session.deflate(session.memory.pages(1))
        device.settle()
        assert set(migration.take_log().tolist()) == written(session, QueueRole.DEFLATE)
        migration.stop_log()
        serve(session, device)
        assert not migration.take_log().size
        migration.start_log()
        serve(session, device)
        assert written(session, QueueRole.INFLATE) <= set(migration.take_log().tolist())


@both_formats
def test_a_buffer_that_the_host_has_returned_is_logged(device: Device, wanted: Feature) -> None:
    with driving(device.path, wanted) as (session, migration):
        migration.start_log()
        head = session.post(QueueRole.STATS, [session.memory.message(bytes(10))])
        wait_until(lambda: device.status().stats is not None, SECONDS, "no statistics arrive")
        device.settle()
        migration.take_log()
        device.control.stats.request().result(SECONDS)
        session.wait_used(QueueRole.STATS, head)
        device.settle()
        assert written(session, QueueRole.STATS) <= set(migration.take_log().tolist())


@both_formats
def test_the_device_stops_and_goes_on_at_the_same_place(device: Device, wanted: Feature) -> None:
    with driving(device.path, wanted) as (session, migration):
        migration.start_log()
        for turn in range(5):
            inflate(session)
            message = session.memory.pfn_message(session.memory.pages(1))
            migration.stop_rings()
            assert not device.status().running
            marked = set(migration.take_log().tolist())
            assert written(session, QueueRole.INFLATE) <= marked, turn
            waiting = session.post(QueueRole.INFLATE, [message])
            device.settle()
            assert not session.is_used(QueueRole.INFLATE, waiting)
            assert not migration.take_log().size, "a device that stands still writes"
            migration.start_rings()
            session.wait_used(QueueRole.INFLATE, waiting)
        assert device.status().counters.broken_rings == 0


@both_formats
def test_what_a_device_wrote_before_it_was_killed_is_marked_whether_it_came_to_that_or_not(
    tmp_path: Path, wanted: Feature
) -> None:
    options = () if wanted == SPLIT else ("--packed",)
    with (
        DeviceProcess(tmp_path / "device", tmp_path / "log", *options) as first,
        driving(first.path, wanted) as (session, migration),
    ):
        migration.start_log()
        inflate(session)
        front_end(session).read_config(0, 4)  # answered when the ring was served and marked
        migration.take_log()
        first.kill()
        first.path.unlink()
        session.until(lambda: not front_end(session).is_connected)
        everywhere = {page for role in session.rings for page in written(session, role)}
        assert everywhere <= set(migration.take_log().tolist())
        with DeviceProcess(tmp_path / "device", tmp_path / "log", *options):
            assert front_end(session).reconnect()
            migration.take_log()
            inflate(session)
            front_end(session).read_config(0, 4)
            marked = set(migration.take_log().tolist())
            assert written(session, QueueRole.INFLATE) <= marked, "the next device logs too"


def test_a_device_that_is_killed_before_it_has_stopped_goes_on_as_another(tmp_path: Path) -> None:
    with (
        DeviceProcess(tmp_path / "device", tmp_path / "log") as first,
        driving(first.path) as (session, migration),
    ):
        migration.start_log()
        for _ in range(3):
            inflate(session)
        first.kill()
        first.path.unlink()
        migration.stop_rings()
        assert migration.take_log().size
        with DeviceProcess(tmp_path / "device", tmp_path / "log"):
            migration.stop_log()  # the device is away, for all we know
            migration.start_rings()
            assert front_end(session).reconnect()
            assert session.works()


def test_a_state_goes_from_device_to_device(tmp_path: Path, device: Device) -> None:
    with running_device(tmp_path / "other", BalloonSettings(OFFER)) as other:
        device.control.set_target(300).result(SECONDS)
        with driving(device.path) as (session, migration):
            session.transport.write_config(4, (200).to_bytes(4, "little"))
            migration.stop_rings()
            blob = migration.save_state()
            migration.start_rings()
            assert session.works()
        with driving(other.path) as (session, migration):
            migration.stop_rings()
            migration.load_state(blob)
            migration.start_rings()
            assert session.works()
            status = other.status()
            assert (status.target_pages, status.actual_pages) == (300, 200)
            migration.stop_rings()
            assert MovedState.parse(migration.save_state()) == MovedState.parse(blob)


def test_a_state_that_is_refused_is_an_error(device: Device) -> None:
    with driving(device.path) as (session, migration):
        migration.stop_rings()
        with pytest.raises(GuestError, match="could not load"):
            migration.load_state(b"noise")
        with pytest.raises(GuestError, match=r"does not take|could not load"):
            migration.load_state(bytes(8 << 20))
        migration.start_rings()
        assert session.works()


def test_a_state_is_not_moved_while_the_rings_run(device: Device) -> None:
    with driving(device.path) as (session, migration):
        with pytest.raises(UsageError):
            migration.save_state()
        with pytest.raises(UsageError):
            migration.load_state(b"")
        assert session.works()


DEVICE_STATE, LOG_SHMFD, LOG_ALL = 1 << 19, 1 << 1, 1 << 26


class StateBackEnd(BackEnd):
    """Has a state, and is as odd about it as it is told to be."""

    def __init__(self, path: Path, *, answer: int = 0x100, check: int = 0) -> None:
        super().__init__(path, self._say)
        self._state_answer, self._check = answer, check

    def _say(self, code: int, payload: bytes) -> bytes | None:
        match code:
            case Req.GET_PROTOCOL_FEATURES:
                return reply(code, U64.pack(1 << 9 | DEVICE_STATE))
            case Req.SET_DEVICE_STATE_FD:
                return reply(code, U64.pack(self._state_answer))
            case Req.CHECK_DEVICE_STATE:
                return reply(code, U64.pack(self._check))
        return answer_well(code, payload)


@pytest.mark.parametrize("answer", [0x101, 0x1FF, 1, 0])
def test_a_device_that_refuses_or_wants_another_way_is_taken_at_its_word(
    tmp_path: Path, answer: int
) -> None:
    with (
        StateBackEnd(tmp_path / "s", answer=answer) as device,
        front_end_of(device.path) as made,
    ):
        made.connect()
        with pytest.raises(GuestError, match=r"refuses|another descriptor"):
            made.migration.save_state()


def test_a_state_that_does_not_come_is_waited_for_with_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    class Keeping(StateBackEnd):
        """Takes descriptors, and never writes to them or closes them."""

        def _serve(self, sock: socket.socket) -> None:
            while True:
                header, fds, *_ = socket.recv_fds(sock, 12, 8)
                if not header:
                    return
                kept.extend(fds)
                code = int.from_bytes(header[:4], "little")
                size = int.from_bytes(header[8:12], "little")
                payload = sock.recv(size, socket.MSG_WAITALL) if size else b""
                answered = self._say(code, payload)
                if answered is not None:
                    sock.sendall(answered)

    monkeypatch.setattr(device_migration, "ANSWER_S", 0.2)
    with Keeping(tmp_path / "s") as device, front_end_of(device.path) as made:
        made.connect()
        with pytest.raises(GuestError, match="does not come"):
            made.migration.save_state()
        made.accept(int(Feature.VERSION_1))
        with pytest.raises(GuestError, match="does not take"):
            made.migration.load_state(bytes(device_migration.STATE_BYTES_MAX))
    for fd in kept:
        socket.close(fd)


def test_a_device_without_a_log_or_state_says_so(tmp_path: Path) -> None:
    with BackEnd(tmp_path / "s", answer_well) as device, front_end_of(device.path) as made:
        made.connect()
        with pytest.raises(GuestError, match="cannot tell what it writes"):
            made.migration.start_log()
        with pytest.raises(GuestError, match="cannot tell a state"):
            made.migration.save_state()
        assert made.migration.take_log().dtype == np.int64
