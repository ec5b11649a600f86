"""The main job on the embedded guest: what is measured, and when."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.wait import PATIENCE_S

from ballonet.control.device_control import DeviceControl
from ballonet.control.status import Status
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedEmbeddedGuest
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.units import pages_to_bytes
from ballonet.vhost_user.server import make_server

BALLONET = str(Path(sys.executable).with_name("ballonet"))
MIB = 1 << 20
PAGES = 40_000


class SlowDevice(DeviceControl):
    """A device that never has dropped all that waits."""

    def status(self) -> Status:
        return replace(super().status(), waiting_bytes=MIB)


class SlowlyBallooned(BalloonedEmbeddedGuest):
    def _make_control(self, sock: socket.socket) -> DeviceControl:
        return SlowDevice(make_server(BalloonSettings(), sock, listening=True))


def test_the_demo_measures_the_host_when_the_host_has_its_memory() -> None:
    command = [BALLONET, "demo", "--guest", "embedded", "--memory", "512M", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    given = figures["host_bytes_before"] - figures["host_bytes_inflated"]
    assert figures["given_back_bytes"] == given > figures["target_bytes"] - 32 * MIB
    assert figures["host_waiting_bytes"] == 0
    assert 0 < figures["inflate_seconds"] <= figures["host_has_it_seconds"]
    said = re.search(
        r"done after ([\d.]+) s, the host had its memory after ([\d.]+) s", done.stderr
    )
    assert said is not None, done.stderr
    told = [figures["inflate_seconds"], figures["host_has_it_seconds"]]
    assert [float(one) for one in said.groups()] == pytest.approx(told, abs=0.006)


def test_a_change_of_the_balloon_is_over_when_the_host_has_its_part() -> None:
    settings = EmbeddedGuestSettings(256 * MIB)
    with BalloonedEmbeddedGuest(settings, BalloonSettings()) as machine:
        machine.guest.use_memory(90)
        before = machine.device.status().held_bytes
        result = machine.resize(PAGES, stalled_after_s=20)
        now = machine.device.status()
    assert result.reached
    assert now.waiting_bytes == result.waiting_bytes == 0
    assert before - now.held_bytes > pages_to_bytes(PAGES) - 8 * MIB
    assert result.host_seconds is not None
    assert result.host_seconds >= result.seconds


def test_a_host_that_does_not_get_its_memory_is_told_so() -> None:
    settings = EmbeddedGuestSettings(128 * MIB)
    with SlowlyBallooned(settings, BalloonSettings()) as machine:
        result = machine.resize(100, stalled_after_s=0.1)
    assert result.reached
    assert (result.host_seconds, result.waiting_bytes) == (None, MIB)


def test_a_guest_that_ends_meanwhile_is_told_at_once() -> None:
    with BalloonedEmbeddedGuest(EmbeddedGuestSettings(128 * MIB), BalloonSettings()) as machine:
        os.kill(machine.guest.pid, signal.SIGKILL)
        with pytest.raises(GuestError, match="has ended while its balloon was to move"):
            machine.resize(100, stalled_after_s=PATIENCE_S)
