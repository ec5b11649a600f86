"""Guests that lie, repeat themselves, talk out of turn, or never stop."""

from __future__ import annotations

import struct

import pytest
from tests.support.hyperv_guest import (
    BALLOON_RESPONSE,
    V2_0,
    HostRig,
    balloon_response,
    capabilities_report,
    hot_add_response,
    message,
    pages_of,
    status_report,
    unballoon_response,
    version_request,
)

from ballonet.balloon.facts import PagesRejected
from ballonet.hyperv.host_state import HostState
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.memory.regions import Region


def asked(pages: int, rig: HostRig | None = None) -> HostRig:
    """A host that has asked for so many pages."""
    rig = rig or HostRig().open()
    rig.host.set_target(pages)
    rig.take()
    return rig


def test_duplicate_and_overlapping_ranges_count_once() -> None:
    rig = asked(100)
    rig.guest_says(balloon_response([(10, 20), (10, 20), (25, 10), (5, 6)], more=True))
    assert rig.host.actual_pages == 30
    assert rig.counted("duplicate_pages") == 26
    rig.guest_says(balloon_response([(0, 40)]))
    assert rig.host.actual_pages == 40
    assert rig.counted("duplicate_pages") == 56
    assert rig.requested() == 60
    assert rig.flush() == pages_of([(0, 40)])
    rig.guest_says(balloon_response([]))
    rig.host.set_target(0)
    assert rig.returned() == [(0, 40, False)]


def test_a_page_that_is_named_again_is_not_dropped_again() -> None:
    rig = asked(100)
    rig.guest_says(balloon_response([(0, 10)], more=True))
    rig.flush()
    rig.memory.dropped.clear()
    rig.guest_says(balloon_response([(0, 10)], more=True))
    assert rig.flush() == set()


def test_a_range_beyond_memory_is_only_the_guest_s_loss() -> None:
    """Half of it is memory: that half is dropped, the other is removed_guest."""
    rig = HostRig(pages=1000).open()
    asked(300, rig)
    rig.guest_says(balloon_response([(900, 200), (1 << 39, 50)]))
    assert rig.host.actual_pages == 100
    assert rig.flush() == pages_of([(900, 100)])
    assert rig.host.describe()["removed-guest-pages"] == 150
    assert rig.counted("outside_pages") == 150
    assert rig.host.given.counters.rejected_pages == 150
    assert [fact.count for fact in rig.facts if isinstance(fact, PagesRejected)] == [150]
    assert rig.requested() == 50  # they count as given
    rig.guest_says(balloon_response([]))
    rig.host.set_target(20)
    assert rig.returned() == [(1000, 100, True), (1 << 39, 50, True), (900, 80, False)]


def test_a_page_only_partly_in_memory_is_none() -> None:
    rig = HostRig(regions=[Region(0x800, 0x4000, 0, 0)]).open()
    asked(10, rig)
    rig.guest_says(balloon_response([(0, 10)]))
    assert rig.host.actual_pages == 3
    assert rig.host.describe()["removed-guest-pages"] == 7


def test_ranges_that_name_all_there_could_be_cost_nothing() -> None:
    rig = HostRig(pages=1000).open()
    asked(10, rig)
    most = (1 << 24) - 1
    rig.guest_says(balloon_response([(i << 24, most) for i in range(510)] + [(2**40 - 1, most)]))
    assert rig.host.actual_pages == 1000
    assert rig.counted("surplus_pages") > 0
    rig.flush()
    assert rig.memory.dropped == pages_of([(0, 1000)])
    rig.host.set_target(0)
    rig.guest_says(unballoon_response())
    assert rig.host.broken is None


@pytest.mark.parametrize("length", range(1, 24))
def test_a_short_message_is_ignored(length: int) -> None:
    rig = asked(100)
    rig.guest_says(balloon_response([(0, 100)])[:length])
    assert rig.host.actual_pages == 0
    assert rig.state() is HostState.BALLOON_REPLY_WAIT
    assert rig.counted("malformed_messages") == 1
    assert rig.host.broken is not None
    rig.guest_says(balloon_response([(0, 100)]))
    assert rig.host.actual_pages == 100
    rig.host.detach()
    assert rig.host.broken is None


@pytest.mark.parametrize("count", [2, 511, (1 << 31) - 1])
def test_more_ranges_than_there_are_bytes_are_not_read(count: int) -> None:
    rig = asked(100)
    rig.guest_says(message(BALLOON_RESPONSE, struct.pack("<IIQ", 0, count << 1, 1 << 40)))
    assert rig.host.actual_pages == 0
    assert rig.counted("malformed_messages") == 1
    assert "number of ranges" in str(rig.host.broken)


@pytest.mark.parametrize("kind", [0, 2, 4, 6, 8, 10, 12, 13, 14, 15, 999])
def test_what_no_guest_says_changes_nothing(kind: int) -> None:
    rig = asked(100)
    rig.guest_says(message(kind, bytes(32)))
    assert rig.counted("malformed_messages") + rig.counted("unexpected_messages") == 1
    assert rig.state() is HostState.BALLOON_REPLY_WAIT
    assert rig.take() == []


def test_a_response_that_nobody_asked_for_gives_nothing() -> None:
    rig = HostRig().open()
    rig.guest_says(balloon_response([(0, 100)]), unballoon_response(), hot_add_response(9, 1))
    assert rig.host.actual_pages == 0
    assert rig.flush() == set()
    assert rig.counted("unexpected_messages") == 3
    assert rig.state() is HostState.IDLE
    assert rig.host.broken is None
    rig.host.set_target(0)
    assert rig.take() == []


def test_a_response_to_a_request_that_is_not_sent_yet_gives_nothing() -> None:
    rig = HostRig().open()
    rig.room = 0
    rig.host.set_target(100)
    rig.guest_says(balloon_response([(0, 100)]))
    assert rig.host.actual_pages == 0
    assert rig.counted("unexpected_messages") == 1


def test_pages_cannot_be_given_while_others_go_back() -> None:
    rig = HostRig().open()
    rig.give([(0, 100)])
    rig.host.set_target(50)
    rig.take()
    rig.guest_says(balloon_response([(0, 50)]))
    assert rig.flush() == pages_of([(50, 50)])
    assert rig.host.actual_pages == 50


def test_a_handshake_happens_once() -> None:
    rig = HostRig().open()
    rig.guest_says(version_request(V2_0), capabilities_report(), version_request(1))
    assert rig.take() == []
    assert rig.counted("unexpected_messages") == 3
    assert rig.host.is_running


def test_nothing_can_be_said_before_the_version() -> None:
    rig = HostRig()
    rig.host.attach(rig.memory)
    rig.guest_says(capabilities_report(), balloon_response([(0, 1)]), status_report(1, 1))
    assert rig.take() == []
    assert rig.state() is HostState.VERSION
    assert rig.counted("unexpected_messages") == 3


def test_a_guest_that_gives_more_than_it_was_asked_for_has_less() -> None:
    rig = asked(100)
    rig.guest_says(balloon_response([(0, 150)]))
    assert rig.host.actual_pages == 150
    assert rig.counted("surplus_pages") == 50
    assert rig.state() is HostState.IDLE


def test_a_guest_that_lies_about_more_keeps_only_itself_waiting() -> None:
    rig = asked(100)
    rig.guest_says(balloon_response([(0, 100)], more=True))
    rig.host.set_target(0)
    rig.clock.advance(3600)
    rig.host.expired()
    assert rig.state() is HostState.BALLOON_REPLY_WAIT
    assert rig.memory.dropped == pages_of([(0, 100)])
    rig.guest_says(balloon_response([]))
    assert rig.returned() == [(0, 100, False)]


def test_a_flood_of_versions_into_a_full_ring_costs_one_answer() -> None:
    rig = HostRig()
    rig.host.attach(rig.memory)
    rig.room = 0
    rig.guest_says(*[version_request(1)] * 1000)
    rig.room = 10_000
    rig.clock.advance(1)
    rig.host.expired()
    assert len(rig.take()) == 1
    assert rig.counted("unexpected_messages") == 999


def test_a_guest_that_makes_up_memory_costs_bounded_memory() -> None:
    rig = HostRig(pages=1000).open()
    asked(1 << 30, rig)
    for i in range(200):
        first = (1 << 21) + 2000 * i
        rig.guest_says(balloon_response([(first + 2 * j, 1) for j in range(510)], more=True))
    ranges = rig.host.describe()["removed-ranges"]
    assert isinstance(ranges, int)
    assert ranges <= 1 << 16
    assert rig.counted("ignored_pages") > 0


def test_a_range_that_ends_beyond_40_bits_gives_no_other_pages_back() -> None:
    """What goes back is taken back first: a message that names other pages would be fatal."""
    rig = asked(300)
    rig.guest_says(balloon_response([(0, 100), (2**40 - 1, 200)]))
    rig.guest_says(balloon_response([]))
    rig.take()
    rig.host.set_target(0)
    assert rig.returned() == [(2**40 - 1, 1, True), (0, 100, False)]
    assert rig.counted("ignored_pages") == 199


def test_transaction_numbers_are_not_looked_at() -> None:
    rig = HostRig(HypervHostSettings(post_init_wait_ns=0))
    rig.host.attach(rig.memory)
    for raw in (version_request(V2_0), capabilities_report()):
        rig.guest_says(raw[:4] + b"\xff" * 4 + raw[8:])
    assert rig.host.is_running
