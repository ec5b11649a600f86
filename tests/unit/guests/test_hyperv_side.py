"""Hyper-V's balloon in the embedded guest: what becomes of it when the host is lost."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.sibling_guest import MESSAGE, frame
from tests.support.wait import PATIENCE_S, wait_until
from tests.unit.guests.side_under_test import SideRig

from ballonet.guests.hyperv_side import HypervSide

VERSION_REQUEST, VERSION_RESPONSE, CAPABILITIES, ACCEPTED, BALLOON, RESPONSE = 1, 2, 3, 4, 6, 7


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[SideRig[HypervSide]]:
    made = SideRig(tmp_path / "host", HypervSide)
    made.start()
    yield made
    made.close()


def is_speaking(rig: SideRig[HypervSide]) -> bool:
    """The guest has said something, when everything that can go on has."""
    rig.loop.turn(0)
    rig.scheduler.run(0)
    return bool(select.select([rig.host], [], [], 0)[0])


def wait_for_pages(rig: SideRig[HypervSide], pages: int) -> None:
    """The driver has so many in its balloon."""

    def look() -> bool:
        is_speaking(rig)
        return rig.side.actual_pages == pages

    wait_until(look, PATIENCE_S, f"no balloon of {pages} pages")


def heard(rig: SideRig[HypervSide]) -> int:
    """Type of the next message to the host."""
    wait_until(lambda: is_speaking(rig), PATIENCE_S, "the guest says nothing")
    size, kind = struct.unpack("<II", rig.host.recv(8, socket.MSG_WAITALL))
    assert kind == MESSAGE
    return int.from_bytes(rig.host.recv(size, socket.MSG_WAITALL)[:2], "little")


def says(rig: SideRig[HypervSide], kind: int, body: bytes) -> None:
    """The host says something."""
    message = struct.pack("<HHI", kind, 8 + len(body), 1) + body
    rig.host.sendall(frame(MESSAGE, message))


def balloon(rig: SideRig[HypervSide], pages: int) -> None:
    """Shake hands, and get so many pages of the guest's."""
    assert heard(rig) == VERSION_REQUEST
    says(rig, VERSION_RESPONSE, struct.pack("<Q", 1))
    assert heard(rig) == CAPABILITIES
    says(rig, ACCEPTED, struct.pack("<Q", 1))
    says(rig, BALLOON, struct.pack("<II", pages, 0))
    assert heard(rig) == RESPONSE


def test_another_host_finds_an_empty_balloon(rig: SideRig[HypervSide]) -> None:
    total = rig.kernel.managed_frames
    balloon(rig, 512)
    wait_for_pages(rig, 512)
    assert rig.kernel.managed_frames == total - 512
    rig.lose()
    rig.scheduler.run(0)
    assert rig.side.actual_pages == 512  # the lost host may still drop them
    rig.come_again()
    balloon(rig, 100)
    wait_for_pages(rig, 100)
    assert rig.kernel.managed_frames == total - 100


def test_hosts_that_come_and_go_at_once_have_one_driver(rig: SideRig[HypervSide]) -> None:
    assert heard(rig) == VERSION_REQUEST
    for _ in range(3):
        rig.lose()
        rig.come_again()
    assert heard(rig) == VERSION_REQUEST
    assert not is_speaking(rig)
    assert rig.side.facts()["reconnections"] == 3
