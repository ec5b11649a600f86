"""A device is killed and started again under a guest that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.device_under_test import DeviceProcess, running_device
from tests.support.programs import wait_for_listener
from tests.support.scripts import reconnect_qemu, start_qemu
from tests.support.small_disk import small_disk
from tests.support.wait import holds, wait_until

from ballonet.device.state import DeviceState
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20
PAGES = 128 * MIB >> 12


@contextmanager
def device(directory: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ballonet device` with a state file."""
    path = directory / "device"
    command = [BALLONET, "device", "--socket-path", str(path)]
    command += ["--state-file", str(directory / "state")]
    with subprocess.Popen([*command, *options]) as process:
        try:
            wait_for_listener(path)
            yield process
        finally:
            process.kill()


def guest(directory: Path, workload: str | None = None) -> EmbeddedGuest:
    return EmbeddedGuest(EmbeddedGuestSettings(256 * MIB, directory / "device", workload=workload))


def actual(machine: EmbeddedGuest) -> int:
    return int(machine.ask("driver")["actual_pages"])


def saved(directory: Path) -> tuple[int, int]:
    """Target and balloon of the state file."""
    state = json.loads((directory / "state").read_text())
    return state["target_pages"], state["actual_pages"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_target_survives_and_no_page_is_lost(tmp_path: Path, how: signal.Signals) -> None:
    with device(tmp_path, "--target", "128M") as first, guest(tmp_path, "desktop") as machine:
        wait_until(lambda: actual(machine) == PAGES, 20, "the balloon is full")
        wait_until(lambda: saved(tmp_path) == (PAGES, PAGES), 20, "its state is saved")
        first.send_signal(how)
        first.wait()
        (tmp_path / "device").unlink(missing_ok=True)
        machine.ask("hog", size=8 * MIB)  # the guest works on without a device
        with device(tmp_path):
            wait_until(lambda: machine.ask("driver")["reconnections"] == 1, 20, "it is back")
            assert holds(lambda: actual(machine) == PAGES, 0.5)
            assert saved(tmp_path) == (PAGES, PAGES)
            assert machine.ask("release_hogs") == 1  # reads back what it wrote
            assert machine.is_running


def test_a_balloon_that_was_moving_goes_on(tmp_path: Path) -> None:
    with device(tmp_path, "--target", "200M") as first, guest(tmp_path) as machine:
        wait_until(lambda: actual(machine) > 0, 20, "the balloon moves")
        first.kill()
        first.wait()
        (tmp_path / "device").unlink(missing_ok=True)
        with device(tmp_path):
            wait_until(lambda: actual(machine) == 200 * MIB >> 12, 30, "the balloon is full")


def test_a_balloon_that_does_not_move_is_known_to_the_device_that_comes_after(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    options = (tmp_path / "device", tmp_path / "log", "--state-file", state)
    with DeviceProcess(*options) as first, start_qemu(first.path) as machine:
        machine.inflate([machine.free_range()[0]])
        machine.write_actual(8192)
        message = "the state is not written"
        wait_until(lambda: json.loads(state.read_text())["actual_pages"] == 8192, 60, message)
        for _ in range(2):  # killed while the guest is there, and after it was lost
            first.kill()
            (tmp_path / "device").unlink()
            with DeviceProcess(*options) as second:
                reconnect_qemu(second.path, machine)
                assert machine.read_actual() == 8192  # of which the driver says nothing new
                machine.front_end.close()
                second.kill()
                assert json.loads(state.read_text())["actual_pages"] == 8192
    with DeviceProcess(*options) as third, start_qemu(third.path) as machine:
        assert machine.read_actual() == 0  # another guest


@pytest.mark.parametrize("text", ["", "[]", '{"version": 9}', "\x00", "[" * 100_000])
def test_a_state_file_that_is_none_is_one_clear_line_and_the_device_serves(
    tmp_path: Path, text: str
) -> None:
    state = tmp_path / "state"
    state.write_text(text)
    with DeviceProcess(tmp_path / "device", tmp_path / "log", "--state-file", state) as process:
        with start_qemu(process.path) as machine:
            assert machine.read_num_pages() == 0
        assert process.stop() == 0
    assert process.log().count("\n") == 1
    assert str(state) in process.log()
    assert DeviceState.from_fields(json.loads(state.read_text())) == DeviceState()
    if text:
        assert (tmp_path / "state.bad").read_text() == text


def test_a_state_file_that_can_never_be_is_one_clear_line_and_the_end(tmp_path: Path) -> None:
    for state, code in ((tmp_path, 2), (Path("/dev/null"), 2), (tmp_path / "no" / "state", 1)):
        command = [BALLONET, "device", "--socket-path", str(tmp_path / "s")]
        command += ["--state-file", str(state)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert str(state) in done.stderr
        assert not os.path.lexists(tmp_path / "s")


def test_a_full_disk_stops_neither_a_target_nor_the_device_and_is_made_up_for(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        state = disk.path / "state"
        with (
            running_device(tmp_path / "device", state_path=state) as running,
            start_qemu(running.path) as machine,
        ):
            disk.fill()
            for pages in range(1, 100):
                running.control.set_target(pages)
                wait_until(lambda: machine.read_num_pages() == pages, 20, "the target arrives")  # noqa: B023
            machine.inflate([machine.free_range()[0]])
            assert json.loads(state.read_text())["target_pages"] == 0
            disk.free()
            message = "the state is not written"
            wait_until(lambda: json.loads(state.read_text())["target_pages"] == 99, 60, message)


def test_a_disk_that_is_full_from_start_to_end_is_one_line_or_two(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        disk.fill()
        options = ("--state-file", disk.path / "state", "--target", "1M")
        with DeviceProcess(tmp_path / "device", tmp_path / "log", *options) as process:
            with start_qemu(process.path) as machine:
                assert machine.read_num_pages() == 256
            assert process.stop() == 0
        assert 1 <= process.log().count("\n") <= 2
        assert "No space left" in process.log()
