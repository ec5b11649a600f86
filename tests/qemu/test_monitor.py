"""The same client says the same to QEMU's monitor and to ours, and hears the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.qemu.conftest import MEMORY_BYTES
from tests.qemu.monitor_script import converse

from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.guests.qemu import QemuGuest
from ballonet.monitor.serving import monitoring
from ballonet.qmp.version import VERSIONS
from ballonet.vhost_user.listener import listening_socket


def test_our_monitor_answers_as_qemus_does(qemu: QemuGuest, tmp_path: Path) -> None:
    theirs = asyncio.run(converse(qemu.qmp_path, qemu.balloon_path, MEMORY_BYTES))
    with (
        BalloonedGuest(LinuxGuestSettings(MEMORY_BYTES), BalloonSettings()) as machine,
        listening_socket(tmp_path / "qmp") as sock,
        monitoring(machine.device, [sock], version=VERSIONS["7.2"]),
    ):
        ram = machine.device.status().guest_bytes
        ours = asyncio.run(converse(tmp_path / "qmp", qemu.balloon_path, ram))
    for (step, said), (our_step, we_said) in zip(theirs, ours, strict=True):
        assert (our_step, we_said) == (step, said)
