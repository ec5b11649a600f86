"""Hosts that are wrong: the guest bears it, and keeps what is its own."""

from __future__ import annotations

import struct

import pytest
from tests.support.hyperv_guest import UNBALLOON_REQUEST, UNBALLOON_RESPONSE, message
from tests.support.hyperv_host import (
    DriverRig,
    balloon_request,
    capabilities_response,
    unballoon_request,
    version_response,
)

from ballonet.hyperv.driver import DriverState
from ballonet.kernel.frames import Use


def ballooned(pages: int) -> tuple[DriverRig, list[tuple[int, int]]]:
    """A driver that has given so many pages, and which."""
    rig = DriverRig().start()
    rig.host_says(balloon_request(pages))
    given = [pair for ranges, _ in rig.responses() for pair in ranges]
    return rig, given


def test_pages_that_are_not_in_the_balloon_are_left_alone() -> None:
    rig, given = ballooned(512)
    kernel_frames = rig.kernel.table.count(Use.KERNEL)
    rig.host_says(unballoon_request([(0, 1 << 20), (1 << 39, 7), (given[0][0], 100)]))
    assert rig.kernel.table.count(Use.KERNEL) == kernel_frames
    assert rig.driver.actual_pages == 0
    assert rig.driver.describe()["ignored-pages"] == (1 << 20) + 7 + 100 - 512
    assert rig.kernel.free_frames == rig.free_at_boot
    assert rig.take() == [(UNBALLOON_RESPONSE, b"")]


def test_a_page_that_comes_back_twice_is_freed_once() -> None:
    rig, given = ballooned(512)
    first = given[0][0]
    rig.host_says(unballoon_request([(first, 10), (first + 5, 10)], more=True))
    rig.host_says(unballoon_request([(first, 15)], more=True))
    assert rig.driver.actual_pages == 512 - 15
    assert rig.driver.describe()["ignored-pages"] == 5 + 15
    assert rig.kernel.hidden_frames == 512 - 15


def test_pages_of_a_message_that_is_not_sent_cannot_come_back() -> None:
    rig = DriverRig().start()
    rig.room = 0
    rig.host_says(balloon_request(512))
    rig.host_says(unballoon_request([(0, 1 << 20)]))
    assert rig.kernel.table.count(Use.HELD) == 512
    rig.room = 10
    rig.pass_time(1)
    assert rig.driver.actual_pages == 512
    assert rig.balloon_frames().size == 512


@pytest.mark.parametrize(
    "raw",
    [
        *[b"", b"\0" * 7, message(99), balloon_request(5)[:12]],
        message(UNBALLOON_REQUEST, struct.pack("<IIQ", 0, 2, 1)),
        message(UNBALLOON_REQUEST, struct.pack("<II", 0, 0xFFFF_FFFF)),
    ],
)
def test_what_cannot_be_read_is_counted(raw: bytes) -> None:
    rig, _ = ballooned(512)
    rig.host_says(raw)
    assert rig.driver.describe()["malformed-messages"] == 1
    assert rig.driver.actual_pages == 512
    assert rig.take() == []


@pytest.mark.parametrize("kind", [1, 3, 5, 7, 9, 11, 13, 14])
def test_what_no_host_says_is_counted(kind: int) -> None:
    rig, _ = ballooned(512)
    rig.host_says(message(kind, bytes(48)))
    assert rig.driver.describe()["unexpected-messages"] == 1
    assert rig.take() == []


def test_nothing_is_done_before_the_handshake_is_over() -> None:
    rig = DriverRig()
    rig.driver.start()
    rig.host_says(balloon_request(512), capabilities_response(), unballoon_request([(0, 1)]))
    assert rig.driver.describe()["unexpected-messages"] == 3
    assert rig.state() is DriverState.INITIALIZING
    rig.host_says(version_response(accepted=True), version_response(accepted=False))
    assert rig.driver.describe()["unexpected-messages"] == 4
    rig.host_says(capabilities_response())
    assert rig.state() is DriverState.INITIALIZED
    assert rig.driver.actual_pages == 0


def test_a_second_request_in_the_middle_of_the_first_is_done_afterwards() -> None:
    rig = DriverRig().start()
    rig.host_says(balloon_request(5), balloon_request(7))
    assert rig.driver.actual_pages == 7
    rig.room = len(rig.sent)
    rig.host_says(balloon_request(1))
    rig.host_says(balloon_request(100))
    rig.host_says(balloon_request(2))
    rig.room = 100
    rig.pass_time(1)
    assert rig.driver.actual_pages == 7 + 1 + 2


def test_a_flood_of_requests_costs_no_memory() -> None:
    rig = DriverRig().start()
    rig.room = 0
    rig.host_says(*[unballoon_request([(0, 1)])] * 1000, *[balloon_request(0)] * 1000)
    rig.room = 10_000
    rig.pass_time(1)
    assert len(rig.take()) == 2


def test_the_floor_holds_however_often_a_host_asks() -> None:
    rig = DriverRig().start()
    for _ in range(100):
        rig.host_says(balloon_request(2**32 - 1))
    kept = rig.kernel.managed_frames + rig.kernel.table.count(Use.KERNEL)
    assert kept >= 8 << 20 >> 12
    assert rig.kernel.available_frames > 0
    assert rig.driver.describe()["clipped-requests"] == 100
