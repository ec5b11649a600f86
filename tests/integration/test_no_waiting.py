"""Nothing that a front-end shares can make the device wait for it.

Whoever shares an open file may fill it and make it blocking at any moment, after it was handed
over.  A device that waits would serve nobody, and not even end when it is told to.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.device_under_test import SECONDS, Device, DeviceProcess
from tests.support.front_end import FrontEnd
from tests.support.scripts import Where, start_qemu, start_uml
from tests.support.session import DEFLATE, INFLATE, Session
from tests.support.wait import wait_until
from tests.support.wire import U64, RefusedError, Req, stop_up

Start = Callable[[Where], Session]
each_kind_of_call = pytest.mark.parametrize("start", [start_qemu, start_uml])


@pytest.fixture
def process(tmp_path: Path) -> Iterator[DeviceProcess]:
    """A device that must end when it is told to, whatever was done to it."""
    with DeviceProcess(tmp_path / "device", tmp_path / "log") as device:
        yield device
        assert device.stop() == 0


def give_unseen(guest: Session, pages: int) -> None:
    """Inflate without listening for calls."""
    first, _ = guest.free_range()
    for pfn in range(first, first + pages):
        guest.offer(INFLATE, [guest.write_pfns(INFLATE, [pfn])])
        wanted = guest.rings[INFLATE].avail_idx
        ring = guest.split_ring(INFLATE)
        wait_until(lambda: ring.used_idx == wanted, SECONDS, "the device waits")  # noqa: B023
        ring.collect()


@each_kind_of_call
def test_calls_that_nobody_takes_do_not_hold_the_device_up(
    process: DeviceProcess, start: Start
) -> None:
    with start(process.path) as guest:
        guest.inflate([guest.free_range()[0]])
        guest.front_end.stop_up(INFLATE)
        give_unseen(guest, 20)
        assert guest.front_end.get_features()
        assert guest.deflate([guest.free_range()[0]]).length == 0


def test_an_error_that_nobody_takes_does_not_hold_the_device_up(process: DeviceProcess) -> None:
    with start_qemu(process.path) as guest:
        guest.front_end.stop_up(INFLATE)
        guest.split_ring(INFLATE).set_avail_entry(0, guest.queue_size)
        guest.split_ring(INFLATE).set_avail_idx(1)
        guest.front_end.kick(INFLATE)
        wait_until(lambda: guest.front_end.get_status() & 64, SECONDS, "NEEDS_RESET is not set")


def test_a_kick_taken_away_before_it_is_read_does_not_hold_the_device_up(
    process: DeviceProcess,
) -> None:
    with start_qemu(process.path) as guest:
        for _ in range(100):
            guest.front_end.steal_kick(DEFLATE)
        assert guest.front_end.get_features()
        assert guest.inflate([guest.free_range()[0]]).length == 0


def test_a_channel_that_nobody_reads_does_not_hold_the_device_up(device: Device) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, start_qemu(device) as guest:
        guest.front_end.wire.tell(Req.SET_BACKEND_REQ_FD, fds=[theirs.fileno()], ack=True)
        stop_up(theirs.fileno(), is_socket=True)
        try:
            for pages in range(1, 20):
                device.control.set_target(pages)
            wait_until(lambda: guest.read_num_pages() == 19, SECONDS, "the target does not arrive")
        finally:
            ours.setblocking(False)  # a device that waits after all would wait for the test's end
            while len(ours.recv(1 << 20, socket.MSG_DONTWAIT)) == 1 << 20:
                pass


@pytest.mark.parametrize("kind", ["pipe", "file", "TCP socket", "memory"])
@pytest.mark.parametrize(
    "request_code", [Req.SET_VRING_KICK, Req.SET_VRING_CALL, Req.SET_VRING_ERR]
)
def test_a_descriptor_that_could_make_the_device_wait_is_refused(
    process: DeviceProcess, tmp_path: Path, kind: str, request_code: Req
) -> None:
    match kind:
        case "pipe":
            fds = list(os.pipe())
        case "file":
            fds = [os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)]
        case "memory":
            fds = [os.memfd_create("anon_inode:[eventfd]")]
        case _:
            fds = [socket.socket(socket.AF_INET).detach()]
    try:
        with FrontEnd.connect(process.path) as front_end:
            front_end.set_protocol_features(front_end.get_protocol_features())
            for fd in fds:
                with pytest.raises(RefusedError):
                    front_end.wire.tell(request_code, U64.pack(0), [fd], ack=True)
            assert front_end.get_features()
    finally:
        for fd in fds:
            os.close(fd)
    assert "neither an eventfd" in process.log() or "not an eventfd" in process.log()


def test_a_channel_that_is_no_unix_socket_is_refused(process: DeviceProcess) -> None:
    with socket.socket(socket.AF_INET) as sock, FrontEnd.connect(process.path) as front_end:
        front_end.set_protocol_features(front_end.get_protocol_features())
        with pytest.raises(RefusedError):
            front_end.wire.tell(Req.SET_BACKEND_REQ_FD, fds=[sock.fileno()], ack=True)
        assert front_end.get_features()
