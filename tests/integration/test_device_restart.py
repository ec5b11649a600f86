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
from tests.support.wait import holds, wait_until

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
            wait_until(path.is_socket, 10, "the device listens")
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


def test_a_state_file_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for text in ("", "[]", '{"version": 9}', '{"version": 1, "target_pages": -1}', "\x00"):
        state.write_text(text)
        command = [BALLONET, "device", "--socket-path", str(tmp_path / "s")]
        command += ["--state-file", str(state)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2, text
        assert done.stderr.count("\n") == 1
        assert "state file" in done.stderr or "--state-file" in done.stderr
        assert not os.path.lexists(tmp_path / "s")
