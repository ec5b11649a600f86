"""`ballonet top` over a real QEMU, whose monitor serves one client at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.qemu.conftest import MEMORY_BYTES
from tests.support.programs import started, wait_for_listener
from tests.support.terminal import Terminal
from tests.support.wait import PATIENCE_S

from ballonet.guests.qemu import QemuGuest

#: They see what runs on this machine, by name: one after the other.
pytestmark = pytest.mark.xdist_group("machines by name")

BALLONET = str(Path(sys.executable).with_name("ballonet"))
NAME = "topqemu"


def row_of(text: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(NAME)), "")


def test_a_size_is_set_while_rounds_go_on_and_its_monitor_stays_ours(tmp_path: Path) -> None:
    seen: set[str] = set()

    def is_reached(text: str) -> bool:
        seen.add(row_of(text))
        return "reached: the guest keeps 300.0 MiB" in text

    with (
        QemuGuest(MEMORY_BYTES, arguments=("-name", NAME)),
        Terminal(tmp_path, 120, 20) as terminal,
    ):
        terminal.run(f"ballonet top {NAME} --interval 300ms; echo it ended with $?")
        terminal.wait_for(lambda text: "512M" in row_of(text), "the guest")
        terminal.wait_for(lambda text: row_of(text).count("?") == 1, "statistics and rates")
        terminal.press("s")
        terminal.run("300M")
        terminal.wait_for(is_reached, "the verdict")
        terminal.wait_for(lambda text: row_of(text).endswith("arrived"), "its state")
        terminal.press("q")
        terminal.wait_for("it ended with 0")
        info = subprocess.run(
            [BALLONET, "info", NAME, "--json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_S,
        )
    assert not [row for row in seen if "unreached" in row or "silent" in row]
    assert json.loads(info.stdout)["poll_interval_s"] == 0


def test_a_request_that_takes_its_time_keeps_the_monitor_and_the_row_is_as_it_was(
    tmp_path: Path,
) -> None:
    """Nothing but firmware runs there: nobody follows, and after 15 s that is certain."""
    rows: set[str] = set()
    path = tmp_path / "qmp"

    def has_verdict(text: str) -> bool:
        rows.add(row_of(text))
        assert "not reached" not in text
        return f"{NAME}: stuck: asked for 300.0 MiB, the guest keeps 512.0 MiB" in text

    command = [
        *("qemu-system-x86_64", "-m", "512M", "-display", "none", "-nodefaults", "-name", NAME),
        *("-device", "virtio-balloon-pci", "-qmp", f"unix:{path},server=on,wait=off"),
    ]
    with (
        started(command, stdin=subprocess.DEVNULL) as qemu,
        Terminal(tmp_path, 120, 20) as terminal,
    ):
        wait_for_listener(path)
        terminal.run(f"ballonet top {NAME} --interval 300ms; echo it ended with $?")
        terminal.wait_for(lambda text: "512M" in row_of(text), "the machine")
        terminal.press("s")
        terminal.run("300M")
        terminal.wait_for(lambda text: row_of(text).endswith("asked"), "a request")
        terminal.wait_for(has_verdict, "the verdict")
        terminal.wait_for(lambda text: row_of(text).endswith("stuck"), "its state")
        terminal.press("q")
        terminal.wait_for("it ended with 0")
        qemu.kill()
    assert {row.split()[-1] for row in rows} <= {"asked", "stuck"}
    assert {row.split()[4] for row in rows} == {"512M"}
