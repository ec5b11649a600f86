"""What the verbs send to a real QEMU, and what they make of one that is reset or paused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.agent_process import agent, configuration
from tests.support.monitor_tap import tapped

from ballonet.guests.qemu import QemuGuest
from ballonet.vms.foreign_commands import may_be_sent

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20


def ballonet(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BALLONET, *arguments], input=text, capture_output=True, text=True, timeout=110, check=False
    )


@pytest.mark.timeout(300)
def test_verbs_send_nothing_but_what_cannot_hurt_the_vm(qemu: QemuGuest, tmp_path: Path) -> None:
    path = str(tmp_path / "tap")
    with tapped(qemu.qmp_path, tmp_path / "tap") as sent:
        assert ballonet("info", path).returncode == 0
        assert ballonet("set", path, "300M", "--wait").returncode == 0
        assert ballonet("set", path, "300M", "--wait").returncode == 0
        assert ballonet("set", path, "20M").returncode == 1
        ballonet("set", path, "20M", "--wait", "--force")
        assert ballonet("set", path, "512M", "--wait").returncode == 0
        assert ballonet("stats", path).returncode == 0
    commands = {command["execute"] for command in sent}
    assert commands > {"qmp_capabilities", "balloon", "query-balloon", "qom-get", "qom-set"}
    assert harmful(sent) == []


def harmful(sent: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Commands that other people's machines are never to be sent."""
    return [
        command
        for command in sent
        if command["execute"] != "qmp_capabilities"
        and not may_be_sent(command["execute"], command.get("arguments", {}))
    ]


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("machines by name")  # the agent finds it by its command line
def test_agent_autopilot_and_top_send_nothing_else_either(tmp_path: Path) -> None:
    text = configuration(["tapq"], period_s=1.0)
    text += '[autopilot]\nenable = true\nbudget = "192M"\n'
    with QemuGuest(256 * MIB, arguments=("-name", "tapq")) as guest:
        real = guest.qmp_path.with_name("real")
        guest.qmp_path.rename(real)
        with tapped(real, guest.qmp_path) as sent:
            with agent(tmp_path / "agent", text) as watcher:
                watcher.until(
                    lambda: any(one["execute"] == "balloon" for one in list(sent)),
                    "the autopilot asks for nothing",
                )
                watcher.wait_for_rounds(3)
                assert watcher.end() == 0
            assert ballonet("top", "tapq", "--once", "--json").returncode == 0
    assert {one["execute"] for one in sent} > {"balloon", "query-balloon", "qom-get", "qom-set"}
    assert harmful(sent) == []


@pytest.mark.timeout(300)
def test_a_size_is_not_reached_by_a_kernel_that_has_just_been_reset(qemu: QemuGuest) -> None:
    path = str(qemu.qmp_path)
    assert ballonet("set", path, "256M", "--wait").returncode == 0
    booted = qemu.console().count("balloon guest ready")
    ballonet("monitor", path, text="system_reset\n")
    done = ballonet("set", path, "256M", "--wait", "--deadline", "90s", "--json")
    result = json.loads(done.stdout)
    # QEMU shows 256 MiB all the time; the new kernel has all its memory until its driver is there.
    assert result["before_bytes"] == 256 * MIB
    assert (done.returncode == 0) == (result["verdict"] == "reached")
    if result["verdict"] == "reached":
        assert qemu.console().count("balloon guest ready") > booted
        stats = json.loads(ballonet("stats", path, "--json").stdout)["stats"]
        assert stats["total_memory_bytes"] <= 256 * MIB
    else:
        assert result["verdict"] == "unconfirmed"


def test_a_paused_vm_is_told_to_be(qemu: QemuGuest) -> None:
    path = str(qemu.qmp_path)
    ballonet("monitor", path, text="stop\n")
    assert "paused: the guest does not run, it cannot follow" in ballonet("info", path).stdout
    assert json.loads(ballonet("info", path, "--json").stdout)["paused"] is True
    assert "the VM is paused" in ballonet("set", path, "400M").stdout
    done = ballonet("set", path, "300M", "--wait", "--json")
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (1, "paused")
    assert "the VM is paused" in ballonet("stats", path).stderr
    ballonet("monitor", path, text="cont\n")
    assert ballonet("set", path, "300M", "--wait").returncode == 0
