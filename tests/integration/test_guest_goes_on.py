"""An embedded guest stops in one machine and goes on in another, with another device."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from tests.integration.device_under_test import Device, running_device
from tests.support.wait import PATIENCE_S, wait_until

from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError, SettingsError, StreamError, UsageError
from ballonet.guests.embedded import EmbeddedGuestSettings, EmbeddedMachine
from ballonet.kernel.kernel import KernelSettings
from ballonet.kernel.tasks import Flag, Job
from ballonet.memory.shared_file import SharedFile
from ballonet.virtio.features import Feature

MIB = 1 << 20
BALLOON_PAGES = 24 * MIB >> 12

T = TypeVar("T")


def settings(path: Path, workload: str | None = "web") -> EmbeddedGuestSettings:
    kernel = KernelSettings(5, swap_bytes=16 * MIB, poison=0)
    return EmbeddedGuestSettings(96 * MIB, path, workload=workload, speed=50.0, kernel=kernel)


@contextmanager
def running(machine: EmbeddedMachine) -> Iterator[None]:
    """Its loop on a thread, until the end of the block."""
    thread = threading.Thread(target=machine.run)
    thread.start()
    try:
        yield
    finally:
        machine.stop()
        thread.join(PATIENCE_S)


def ask(machine: EmbeddedMachine, question: Callable[[], T]) -> T:
    return machine.loop.ask(question, PATIENCE_S)


def actual(machine: EmbeddedMachine) -> int:
    return ask(machine, lambda: machine.driver.size.actual_pages)


def come_to_rest(machine: EmbeddedMachine) -> None:
    ask(machine, machine.freeze)
    wait_until(lambda: ask(machine, lambda: machine.is_frozen), PATIENCE_S, "it does not rest")


def copy_memory(source: SharedFile, target: SharedFile) -> int:
    """What is no hole; returns the bytes."""
    copied = at = 0
    while True:
        try:
            at = os.lseek(source.fd, at, os.SEEK_DATA)
        except OSError:  # there is no more
            return copied
        end = os.lseek(source.fd, at, os.SEEK_HOLE)
        os.pwrite(target.fd, os.pread(source.fd, end - at, at), at)
        copied, at = copied + end - at, end


def look_at_everything(machine: EmbeddedMachine) -> Job[int]:
    """Every page of every area is what it must be; a page that is not ends the guest."""
    areas = list(machine.kernel.areas.values())
    for area in areas:
        pages = np.arange(area.frames.size)
        yield from machine.kernel.paging.touch(area, pages, write=False)
    return len(areas)


def do(machine: EmbeddedMachine, job: Job[T]) -> T:
    """A job of the guest to its end."""
    results: list[T] = []

    def top() -> Job[None]:
        results.append((yield from job))

    ask(machine, lambda: machine.scheduler.spawn("test", top()))
    wait_until(lambda: results, PATIENCE_S, "the job does not end")
    return results[0]


def ballooned_pages(machine: EmbeddedMachine) -> int:
    """As the kernel counts them."""
    return ask(machine, lambda: machine.kernel.hidden_frames)


def ballooned(device: Device, machine: EmbeddedMachine) -> None:
    device.control.set_target(BALLOON_PAGES).result(PATIENCE_S)
    wait_until(lambda: actual(machine) == BALLOON_PAGES, PATIENCE_S, "the balloon is not full")


@pytest.mark.parametrize("workload", ["web", "batch"])
def test_a_guest_under_work_goes_on_in_another_machine(tmp_path: Path, workload: str) -> None:
    state_file = tmp_path / "state"
    there = EmbeddedMachine(settings(tmp_path / "there", workload), waits_for_state=True)
    with (
        running_device(tmp_path / "here", state_path=state_file) as device,
        EmbeddedMachine(settings(tmp_path / "here", workload)) as here,
        there,
    ):
        with running(here):
            ballooned(device, here)
            come_to_rest(here)
        device.rest()
        here.front_end.close()
        device.wait_until_free()
        assert there.memory.held_bytes == 0  # a guest that waits touches nothing
        assert copy_memory(here.memory, there.memory) <= 96 * MIB - (BALLOON_PAGES << 12)
        shutil.copy(state_file, tmp_path / "copy")
        goes_on(tmp_path, here, there)


def goes_on(directory: Path, here: EmbeddedMachine, there: EmbeddedMachine) -> None:
    """The guest works, has its balloon, and has lost nothing."""
    there.restore_state(here.save_state())
    assert there.kernel.meminfo() == here.kernel.meminfo()
    assert there.driver.size.actual_pages == BALLOON_PAGES
    faults = there.kernel.counters.pgfault
    with running_device(directory / "there", state_path=directory / "copy") as device:
        there.take_device(None)
        there.go_on()
        with running(there):
            message = "the device does not know the balloon"
            wait_until(lambda: device.status().actual_pages == BALLOON_PAGES, 60, message)
            message = "the work does not go on"
            wait_until(lambda: there.kernel.counters.pgfault > faults, 60, message)
            assert actual(there) == BALLOON_PAGES
            assert do(there, look_at_everything(there)) >= 1
            device.control.set_target(0).result(PATIENCE_S)
            message = "the balloon is not empty"
            wait_until(lambda: not ballooned_pages(there), PATIENCE_S, message)
            do(there, look_at_everything(there))


def test_a_guest_that_was_frozen_goes_on_where_it_is(tmp_path: Path) -> None:
    with running_device(tmp_path / "here") as device:
        machine = EmbeddedMachine(settings(tmp_path / "here"))
        with machine, running(machine):
            come_to_rest(machine)
            before = machine.kernel.meminfo()
            first = ask(machine, machine.save_state)
            assert ask(machine, machine.save_state) == first  # its clock stands still, too
            device.control.set_target(BALLOON_PAGES).result(PATIENCE_S)
            assert machine.kernel.meminfo() == before
            ask(machine, machine.thaw)
            wait_until(lambda: actual(machine) == BALLOON_PAGES, PATIENCE_S, "it stands still")
            do(machine, look_at_everything(machine))


def test_what_was_begun_comes_to_its_end_before_the_guest_rests(tmp_path: Path) -> None:
    ended: list[str] = []
    end = Flag()

    def request(name: str) -> Job[None]:
        yield end
        ended.append(name)

    with running_device(tmp_path / "here"):
        machine = EmbeddedMachine(settings(tmp_path / "here", None))
        with machine, running(machine):
            ask(machine, lambda: machine.scheduler.spawn("first", request("first")))
            wait_until(lambda: ask(machine, lambda: machine.scheduler.restless), 60, "not begun")
            ask(machine, machine.freeze)
            ask(machine, lambda: machine.scheduler.spawn("second", request("second")))
            assert ask(machine, lambda: machine.scheduler.restless) == ["first"]
            with pytest.raises(UsageError, match="first"):
                ask(machine, machine.save_state)
            ask(machine, end.set)
            wait_until(lambda: ask(machine, lambda: machine.is_frozen), 60, "it does not rest")
            assert ended == ["first"]
            ask(machine, machine.thaw)
            wait_until(lambda: len(ended) == 2, 60, "what waited is not begun")


def test_a_machine_that_has_begun_takes_no_state(tmp_path: Path) -> None:
    with (
        running_device(tmp_path / "here"),
        EmbeddedMachine(settings(tmp_path / "here")) as machine,
        pytest.raises(UsageError),
    ):
        machine.restore_state({})


def test_a_machine_without_its_device_does_not_begin(tmp_path: Path) -> None:
    with (
        running_device(tmp_path / "here") as device,
        EmbeddedMachine(settings(tmp_path / "here")) as here,
        EmbeddedMachine(settings(tmp_path / "there"), waits_for_state=True) as there,
    ):
        with running(here):
            come_to_rest(here)
        device.settle()
        copy_memory(here.memory, there.memory)
        state = here.save_state()
        with pytest.raises(UsageError):
            there.go_on()
        for wrong in ({}, state | {"more": b""}, {"kernel": state["kernel"]}):
            with pytest.raises(SettingsError):
                there.restore_state(wrong)
        with pytest.raises(StreamError):
            there.restore_state(state | {"kernel": state["kernel"][:-1]})
        there.restore_state(state)
        with pytest.raises(GuestError, match="no balloon device"):
            there.take_device(None)


def test_a_device_that_offers_less_is_refused(tmp_path: Path) -> None:
    fewer = BalloonSettings(BalloonSettings().offered & ~Feature.STATS_VQ)
    with (
        running_device(tmp_path / "here") as device,
        running_device(tmp_path / "there", fewer),
        EmbeddedMachine(settings(tmp_path / "here")) as here,
        EmbeddedMachine(settings(tmp_path / "there"), waits_for_state=True) as there,
    ):
        with running(here):
            come_to_rest(here)
        device.settle()
        copy_memory(here.memory, there.memory)
        there.restore_state(here.save_state())
        with pytest.raises(GuestError, match="lacks features"):
            there.take_device(None)
