"""A real QEMU under the agent: asked, measured, left as it was, and gone when it is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.qemu.conftest import MEMORY_BYTES
from tests.support.agent_process import agent, configuration
from tests.support.programs import started
from tests.support.qmp_client import QmpClient

from ballonet.guests.qemu import QemuGuest

#: They see what runs on this machine, by name: one after the other.
pytestmark = pytest.mark.xdist_group("machines by name")

NAME = "agent-qemu"
OF = {"vm": NAME, "kind": "qemu"}
INTERVAL = {"path": QemuGuest.balloon_path, "property": "guest-stats-polling-interval"}
HOLDS = "import socket,sys; s=socket.socket(1); s.connect(sys.argv[1]); s.recv(1)"
HOLDS += "; print(1, flush=True); sys.stdin.read()"


def test_it_is_asked_measured_and_left_as_it_was(tmp_path: Path) -> None:
    text = configuration([NAME])
    with QemuGuest(MEMORY_BYTES, arguments=("-name", NAME)) as guest:
        with agent(tmp_path / "agent", text) as watcher:
            usable = "ballonet_vm_guest_usable_memory_bytes"
            watcher.until(lambda: watcher.value(usable, **OF), "it sends no statistics")
            series = watcher.series()
            seen = {
                name.removeprefix("ballonet_vm_"): value
                for (name, labels), value in series.items()
                if ("vm", NAME) in labels
            }
            assert seen["memory_bytes"] == seen["actual_bytes"] == MEMORY_BYTES
            assert 0 < seen["host_held_bytes"] <= MEMORY_BYTES
            assert 0 < seen["guest_usable_memory_bytes"] < MEMORY_BYTES
            assert seen["guest_minor_faults_total"] > 0
            assert (seen["up"], seen["paused"], seen["driver"]) == (1, 0, 1)
            assert "target_bytes" not in seen  # QEMU tells it by no stable command
            assert not any(name.startswith("device_") for name in seen)
            command = [sys.executable, "-c", HOLDS, str(guest.qmp_path)]
            with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
                assert holder.stdout is not None
                holder.stdout.read(1)
                watcher.until(lambda: watcher.value("ballonet_vm_up", **OF) == 0, "not taken")
                watcher.until(
                    lambda: watcher.value("ballonet_vm_actual_bytes", **OF) is None,
                    "what nobody can ask is shown",
                )
                assert watcher.value("ballonet_vm_host_held_bytes", **OF)
                holder.communicate()
            watcher.until(lambda: watcher.value("ballonet_vm_up", **OF) == 1, "not asked again")
            assert watcher.end() == 0
        with QmpClient(guest.qmp_path) as client:
            assert client.negotiate().ask("qom-get", **INTERVAL) == {"return": 0}
        with agent(tmp_path / "agent", text) as watcher:
            watcher.until(lambda: watcher.value("ballonet_vm_up", **OF), "it is not seen")
            guest.stop()
            watcher.until(
                lambda: watcher.value("ballonet_vm_up", **OF) is None, "it is still there"
            )
            assert watcher.said(f"qemu:{NAME} is gone") == 1
            assert watcher.end() == 0
