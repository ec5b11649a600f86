"""What remains of a QEMU when whoever has started it ends."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from tests.support.leftovers import family
from tests.support.wait import wait_until

BALLONET = Path(sys.executable).with_name("ballonet")
SCRIPT = """
import os, pathlib, threading
{start}
with {machine}:
    pathlib.Path(os.environ["TMPDIR"], "ready").touch()
    threading.Event().wait()
"""
MACHINES = {
    "a guest": (
        "from ballonet.guests.qemu import QemuGuest",
        "QemuGuest(128 << 20)",
    ),
    "a guest that believes to run on VMware": (
        "from ballonet.guests.vmware_guest import VmwareGuest",
        "VmwareGuest(192 << 20)",
    ),
    "a guest with Hyper-V's balloon": (
        "from ballonet.guests.hyperv_guest import HypervGuest",
        "HypervGuest(192 << 20)",
    ),
    "no guest": (
        "from ballonet.guests.qtest_machine import QtestMachine, QtestSettings",
        "QtestMachine(QtestSettings())",
    ),
}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_checks_of_qemu_that_are_ended_leave_no_qemu_and_no_file(
    tmp_path: Path, number: int
) -> None:
    with family([BALLONET, "conform", "device", "--qemu"], tmp_path) as running:
        wait_until(lambda: running.runs("qemu-system"), 60, "no QEMU was started")
        running.process.send_signal(number)
        running.assert_gone()
    assert running.process.returncode != 0


@pytest.mark.parametrize("machine", list(MACHINES))
def test_a_qemu_with_or_without_a_guest_ends_with_the_program_that_started_it(
    tmp_path: Path, machine: str
) -> None:
    start, make = MACHINES[machine]
    script = SCRIPT.format(start=start, machine=make)
    with family([sys.executable, "-c", script], tmp_path) as running:
        wait_until((tmp_path / "ready").exists, 60, "QEMU does not start")
        assert running.runs("qemu-system")
        (tmp_path / "ready").unlink()
        running.process.kill()
        running.assert_gone()
