"""A device's state goes over a descriptor to another device, whatever is at its other end."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.device_under_test import SECONDS, Device, DeviceProcess, running_device
from tests.support.front_end import FrontEnd
from tests.support.scripts import (
    DRIVER_BITS,
    FREE_PAGE_HINT,
    greet_again,
    run_qemu,
    start_qemu,
    stop_qemu,
)
from tests.support.session import STATS
from tests.support.wait import holds, wait_until
from tests.support.wire import Req

from ballonet.device.balloon import BalloonSettings
from ballonet.device.moved_state import BLOB_BYTES_MAX, MovedState
from ballonet.device.state import DeviceState
from ballonet.virtio.features import BALLOON_FEATURES, DEFAULT_OFFER
from ballonet.virtio.queues import QueueLayout

SAVE, LOAD = 0, 1
OK, NO_FD, REFUSED = 0, 0x100, 0x101
DONE = 1
FREE, TOTAL = 4, 5
WANTED = DRIVER_BITS | FREE_PAGE_HINT
BLOB = MovedState(DeviceState(target_pages=77), 0, QueueLayout.DENSE, None).pack()


@pytest.fixture
def settings() -> BalloonSettings:
    return BalloonSettings(DEFAULT_OFFER | BALLOON_FEATURES)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends, closed in the end unless the block has closed them."""
    ends = os.pipe()
    inodes = [os.fstat(fd).st_ino for fd in ends]
    try:
        yield ends
    finally:
        for fd, inode in zip(ends, inodes, strict=True):
            with suppress(OSError):
                if os.fstat(fd).st_ino == inode:
                    os.close(fd)


@contextmanager
def stopped(path: Path) -> Iterator[FrontEnd]:
    """A front-end of a device whose rings do not run."""
    with start_qemu(path, wanted=WANTED) as guest:
        stop_qemu(guest)
        yield guest.front_end


def save(front_end: FrontEnd) -> bytes:
    with pipe() as (ours, theirs):
        assert front_end.set_device_state_fd(SAVE, theirs) == NO_FD
        os.close(theirs)
        with os.fdopen(os.dup(ours), "rb") as file:
            blob = file.read()
    assert front_end.check_device_state() == OK
    return blob


def load(front_end: FrontEnd, blob: bytes) -> int:
    with pipe() as (theirs, ours):
        assert front_end.set_device_state_fd(LOAD, theirs) == NO_FD
        os.write(ours, blob)
        os.close(ours)
        return front_end.check_device_state()


def test_a_guest_goes_on_with_another_device_that_tells_the_same_state(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text(json.dumps(DeviceState(8192, poll_interval_s=1).as_fields()))
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(DeviceProcess(tmp_path / name, tmp_path / "log", *more))
            for name, more in (("a", ("--state-file", kept)), ("b", ()))
        )
        guest = stack.enter_context(start_qemu(first.path, wanted=WANTED))
        guest.inflate([guest.free_range()[0]])
        guest.write_actual(4096)
        head = guest.put_stats([(FREE, 1 << 21), (TOTAL, 1 << 29), (999, 5)])
        guest.front_end.get_features()
        bases = stop_qemu(guest)
        blob = save(guest.front_end)
        assert save(guest.front_end) is not None, "it can be told again"
        state = MovedState.parse(blob)
        assert (state.kept.target_pages, state.kept.actual_pages) == (8192, 4096)
        assert state.kept.poll_interval_s == 1

        greet_again(second.path, guest)
        assert load(guest.front_end, blob) == OK
        guest.front_end.set_features(guest.driver_features | 1 << 30)
        again = MovedState.parse(save(guest.front_end))
        assert state.stats is not None
        assert again.stats is not None
        assert again.stats.age_ns >= state.stats.age_ns
        assert replace(again, stats=replace(again.stats, age_ns=state.stats.age_ns)) == state

        run_qemu(guest, WANTED, bases=bases)
        assert [used.head for used in guest.wait_used(STATS)] == [head], "it asks anew"
        assert (guest.read_num_pages(), guest.read_actual()) == (8192, 4096)
        assert guest.read_cmd_id() == DONE
        assert guest.inflate([guest.free_range()[0]]).length == 0


def test_a_source_goes_on_after_its_state_was_told(device: Device) -> None:
    with start_qemu(device, wanted=WANTED) as guest:
        device.control.hints.begin()
        bases = stop_qemu(guest)
        save(guest.front_end)
        run_qemu(guest, WANTED, bases=bases)
        assert guest.inflate([guest.free_range()[0]]).length == 0
        assert guest.read_cmd_id() > DONE, "its hint round goes on"


def test_a_state_goes_over_a_socket_too(device: Device) -> None:
    ours, theirs = socket.socketpair()
    with stopped(device.path) as front_end, ours:
        with theirs:
            assert front_end.set_device_state_fd(SAVE, theirs.fileno()) == NO_FD
        ours.settimeout(SECONDS)
        blob = b""
        while more := ours.recv(4096):
            blob += more
        assert front_end.check_device_state() == OK
        assert MovedState.parse(blob).kept.target_pages == 0


def test_a_state_that_is_none_is_refused_and_changes_nothing(device: Device) -> None:
    device.control.set_target(5).result(SECONDS)
    with stopped(device.path) as front_end:
        for bad in (b"", b"noise", BLOB[:-1], BLOB[:-1] + b"\0", bytes(BLOB_BYTES_MAX)):
            assert load(front_end, bad) != OK
            assert MovedState.parse(save(front_end)).kept.target_pages == 5
        assert load(front_end, BLOB) == OK
        assert MovedState.parse(save(front_end)).kept.target_pages == 77


def test_a_state_is_moved_only_while_the_rings_stand_still(device: Device) -> None:
    with start_qemu(device, wanted=WANTED) as guest, pipe() as (read, write):
        assert guest.front_end.set_device_state_fd(SAVE, write) == REFUSED
        assert guest.front_end.set_device_state_fd(LOAD, read) == REFUSED
        bases = stop_qemu(guest)
        assert guest.front_end.set_device_state_fd(LOAD, read) == NO_FD
        run_qemu(guest, WANTED, bases=bases)  # before it was asked whether all went well
        os.write(write, BLOB)
        os.close(write)
        assert guest.front_end.check_device_state() != OK
        assert guest.read_num_pages() == 0


@pytest.mark.parametrize(("direction", "phase"), [(2, 0), (0, 1), (1, 1), (0xFFFF_FFFF, 0)])
def test_other_directions_and_phases_are_refused(
    device: Device, direction: int, phase: int
) -> None:
    with stopped(device.path) as front_end, pipe() as (_, write):
        assert front_end.set_device_state_fd(direction, write, phase=phase) == REFUSED
        assert front_end.check_device_state() != OK


def test_there_is_nothing_to_ask_for_where_nothing_was_moved(device: Device) -> None:
    with stopped(device.path) as front_end:
        assert front_end.check_device_state() != OK
        save(front_end)
        assert front_end.check_device_state() != OK, "it is told once"


def a_file(folder: Path) -> int:
    return os.open(folder / "file", os.O_CREAT | os.O_RDWR)


def a_named_pipe(folder: Path) -> int:
    os.mkfifo(folder / "pipe:[1]")
    return os.open(folder / "pipe:[1]", os.O_RDWR)


def an_eventfd(_: Path) -> int:
    return os.eventfd(0)


def a_network_socket(_: Path) -> int:
    return socket.socket(socket.AF_INET).detach()


def a_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY)


@pytest.mark.parametrize("direction", [SAVE, LOAD])
@pytest.mark.parametrize(
    "make", [a_file, a_named_pipe, an_eventfd, a_network_socket, a_folder], ids=lambda f: f.__name__
)
def test_what_is_neither_pipe_nor_unix_socket_is_refused(
    device: Device, tmp_path: Path, make: Callable[[Path], int], direction: int
) -> None:
    fd = make(tmp_path)
    try:
        with stopped(device.path) as front_end:
            assert front_end.set_device_state_fd(direction, fd) == REFUSED
    finally:
        os.close(fd)


@pytest.mark.parametrize("direction", [SAVE, LOAD])
def test_the_wrong_end_of_a_pipe_is_refused(device: Device, direction: int) -> None:
    with stopped(device.path) as front_end, pipe() as (read, write):
        wrong = read if direction == SAVE else write
        assert front_end.set_device_state_fd(direction, wrong) == REFUSED


def test_a_state_without_end_is_read_no_further_than_any_can_be(device: Device) -> None:
    ours, theirs = socket.socketpair()
    with stopped(device.path) as front_end, ours:
        with theirs:
            assert front_end.set_device_state_fd(LOAD, theirs.fileno()) == NO_FD
        ours.settimeout(SECONDS)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            ours.sendall(bytes(64 * BLOB_BYTES_MAX))
        assert front_end.check_device_state() != OK
        assert load(front_end, BLOB) == OK


def test_a_reader_that_has_left_fails_the_transfer_alone(device: Device) -> None:
    with stopped(device.path) as front_end, pipe() as (read, write):
        os.close(read)
        assert front_end.set_device_state_fd(SAVE, write) == NO_FD
        assert front_end.check_device_state() != OK
        save(front_end)


def fill(write: int) -> None:
    """Let nobody write any more."""
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, bytes(4096))
    except BlockingIOError:
        return


def test_the_device_serves_on_while_nobody_reads_and_one_transfer_is_all_there_is(
    device: Device,
) -> None:
    with stopped(device.path) as front_end, pipe() as (read, write), pipe() as (_, other):
        fill(write)
        assert front_end.set_device_state_fd(SAVE, write) == NO_FD
        assert front_end.get_features()
        assert front_end.set_device_state_fd(SAVE, other) == REFUSED
        assert device.status().connected
        front_end.wire.send(Req.CHECK_DEVICE_STATE, need_reply=False)
        front_end.wire.send(Req.GET_QUEUE_NUM, need_reply=False)
        device.control.set_target(9).result(SECONDS)  # it does not wait, only the answer does
        os.close(write)
        with os.fdopen(os.dup(read), "rb") as file:
            raw = file.read()
        assert int.from_bytes(front_end.wire.receive(Req.CHECK_DEVICE_STATE), "little") == OK
        assert front_end.wire.receive(Req.GET_QUEUE_NUM), "what came after it is answered after it"
        assert MovedState.parse(raw.lstrip(b"\0")).kept.target_pages == 0


def test_a_front_end_that_leaves_in_the_middle_leaves_nothing_to_the_next(device: Device) -> None:
    with pipe() as (read, write):
        fill(write)
        with stopped(device.path) as front_end:
            assert front_end.set_device_state_fd(SAVE, write) == NO_FD
            front_end.wire.send(Req.CHECK_DEVICE_STATE, need_reply=False)
        with stopped(device.path) as front_end:
            with pipe() as (_, other):
                assert front_end.set_device_state_fd(SAVE, other) == REFUSED
            front_end.wire.send(Req.CHECK_DEVICE_STATE, need_reply=False)
            device.settle()  # it waits for a transfer that is not its own
            os.close(write)
            with os.fdopen(os.dup(read), "rb") as file:
                file.read()
            answer = int.from_bytes(front_end.wire.receive(Req.CHECK_DEVICE_STATE), "little")
            assert answer != OK, "nothing was moved for this one"

            def free() -> bool:
                with pipe() as (_, other):
                    return front_end.set_device_state_fd(SAVE, other) == NO_FD

            wait_until(free, SECONDS, "a transfer is under way for ever")
            front_end.check_device_state()
            save(front_end)


def test_a_descriptor_made_blocking_cannot_keep_the_device_from_ending(tmp_path: Path) -> None:
    with (
        DeviceProcess(tmp_path / "device", tmp_path / "log") as process,
        pipe() as (_, write),
    ):
        fill(write)
        with stopped(process.path) as front_end:
            assert front_end.set_device_state_fd(SAVE, write) == NO_FD
            os.set_blocking(write, True)
            front_end.wire.send(Req.CHECK_DEVICE_STATE, need_reply=False)
            assert process.stop() == 0


def test_a_device_without_the_feature_in_use_hangs_up(tmp_path: Path) -> None:
    with (
        running_device(tmp_path / "device") as device,
        start_qemu(device, protocol=0xFFFF) as guest,
        pipe() as (_, write),
    ):
        guest.front_end.wire.send(Req.SET_DEVICE_STATE_FD, bytes(8), need_reply=False)
        assert guest.front_end.wire.is_closed(SECONDS)
        os.close(write)


def test_nothing_is_asked_of_a_guest_whose_state_came_before_its_rings_run(device: Device) -> None:
    polling = MovedState(DeviceState(poll_interval_s=1), 0, QueueLayout.DENSE, None).pack()
    with start_qemu(device, wanted=WANTED) as guest:
        guest.put_stats([(FREE, 1)])
        bases = stop_qemu(guest)
        assert load(guest.front_end, polling) == OK
        assert holds(lambda: not guest.rings[STATS].collect(), 1.5)
        run_qemu(guest, WANTED, bases=bases)
        assert guest.wait_used(STATS)
