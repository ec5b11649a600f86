"""Memory that is not there when it is touched: at most the device of that guest ends.

A file system that is full, or a file that is cut short, ends whoever touches it by SIGBUS.  What
can be noticed before is refused; a front-end that times it well ends its own device, and no other.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.integration.device_under_test import SECONDS, DeviceProcess
from tests.support.front_end import FrontEnd, TableRegion
from tests.support.guest_memory import MIB
from tests.support.scripts import PROTOCOL_FEATURES, VERSION_1, start_qemu
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.wait import wait_until
from tests.support.wire import ClosedError, RefusedError

UVA = 0x7F00_0000_0000
PAGE = 4096
RING = (UVA, UVA + PAGE, UVA + 2 * PAGE)  #: each part in a page of its own
TURNS = 2000
GONE = (ClosedError, RefusedError, ConnectionError)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "256k") as mounted:
        yield mounted


@pytest.fixture
def device(tmp_path: Path) -> Iterator[DeviceProcess]:
    """The device of the guest that misbehaves; may end by SIGBUS, and by nothing else."""
    with DeviceProcess(tmp_path / "device", tmp_path / "log") as process:
        yield process
        assert process.is_alive() or process.wait() == -signal.SIGBUS
        assert "Traceback" not in process.log()


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[DeviceProcess]:
    """The device of a guest that has nothing to do with it, and must go on."""
    with DeviceProcess(tmp_path / "neighbour", tmp_path / "neighbour-log") as process:
        with start_qemu(process.path) as guest:
            yield process
            assert guest.inflate([guest.free_range()[0]]).length == 0
        assert process.stop() == 0
        assert process.log() == ""


@contextmanager
def memory_file(folder: Path) -> Iterator[int]:
    fd = os.open(folder / "memory", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, MIB)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def one_ring(device: DeviceProcess, fd: int) -> Iterator[FrontEnd]:
    """A front-end with memory and a ring that is described but not enabled yet."""
    with FrontEnd.connect(device.path) as front_end:
        front_end.get_features()
        front_end.set_protocol_features(front_end.get_protocol_features())
        front_end.set_features(VERSION_1 | PROTOCOL_FEATURES)
        front_end.set_mem_table([TableRegion(0, MIB, UVA, 0)], [fd], ack=True)
        front_end.set_vring_num(0, 128)
        front_end.set_vring_base(0, 0)
        front_end.set_vring_addr(0, RING)
        front_end.set_vring_call(0)
        front_end.set_vring_kick(0)
        yield front_end


def test_a_ring_in_a_hole_of_a_full_file_system_is_refused(
    device: DeviceProcess, neighbour: DeviceProcess, disk: SmallDisk
) -> None:
    with memory_file(disk.path) as fd, one_ring(device, fd) as front_end:
        disk.fill()
        with pytest.raises(RefusedError):
            front_end.set_vring_enable(0, 1, ack=True)
        assert front_end.get_features()
        assert "no memory can be had" in device.log()
        disk.free()
        front_end.set_vring_enable(0, 1, ack=True)
    assert neighbour.is_alive()


def test_a_ring_whose_memory_is_taken_away_on_a_full_disk_ends_its_own_device_at_most(
    device: DeviceProcess, neighbour: DeviceProcess, disk: SmallDisk
) -> None:
    with memory_file(disk.path) as fd, one_ring(device, fd) as front_end:
        front_end.set_vring_enable(0, 1, ack=True)
        front_end.get_features()
        os.ftruncate(fd, 0)
        os.ftruncate(fd, MIB)  # holes now, and as long as before
        disk.fill()
        front_end.kick(0)
        with suppress(*GONE):
            front_end.get_features()
    assert neighbour.is_alive()


def test_a_file_cut_short_again_and_again_ends_its_own_device_at_most(
    device: DeviceProcess, neighbour: DeviceProcess, tmp_path: Path
) -> None:
    with memory_file(tmp_path) as fd, one_ring(device, fd) as front_end:
        front_end.set_vring_enable(0, 1, ack=True)
        stop = threading.Event()
        cutter = threading.Thread(target=cut_again_and_again, args=(fd, stop))
        cutter.start()
        try:
            with suppress(*GONE):
                for _ in range(TURNS):
                    front_end.kick(0)
                    front_end.get_features()
        finally:
            stop.set()
            cutter.join()
    assert neighbour.is_alive()


def cut_again_and_again(fd: int, stop: threading.Event) -> None:
    while not stop.is_set():
        os.ftruncate(fd, 0)
        os.ftruncate(fd, MIB)


def test_a_device_that_ended_by_sigbus_starts_again_at_the_same_path(
    tmp_path: Path, disk: SmallDisk
) -> None:
    path, log = tmp_path / "device", tmp_path / "log"
    with DeviceProcess(path, log) as first, memory_file(disk.path) as fd:
        with one_ring(first, fd) as front_end:
            front_end.set_vring_enable(0, 1, ack=True)
            front_end.get_features()  # the ring was looked at, and will not be before the kick
            os.ftruncate(fd, 0)
            os.ftruncate(fd, MIB)
            disk.fill()
            front_end.kick(0)
            wait_until(lambda: not first.is_alive(), SECONDS, "the device has not ended")
        assert first.wait() == -signal.SIGBUS
    with DeviceProcess(path, log) as second, start_qemu(second.path) as guest:
        assert guest.inflate([guest.free_range()[0]]).length == 0
