"""The host before an honest guest: handshake, targets, who gets which pages back, and when."""

from __future__ import annotations

import struct

import pytest
from tests.support.hyperv_guest import (
    AT_ONCE,
    BALLOON,
    BALLOON_REQUEST,
    CAPABILITIES_RESPONSE,
    HOT_ADD,
    INFO,
    UNBALLOON_REQUEST,
    V0_3,
    V1_0,
    V2_0,
    VERSION_RESPONSE,
    HostRig,
    balloon_response,
    capabilities_report,
    pages_of,
    status_report,
    unballoon_response,
    version_request,
)

from ballonet.balloon.facts import GuestChanged, MessageReceived, StatusReported
from ballonet.balloon.request import Stage
from ballonet.errors import SettingsError
from ballonet.hyperv.host_state import HostState
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.memory.regions import Region

PATIENT = HypervHostSettings(status_report=True)


def answers(rig: HostRig) -> list[bool]:
    """Which versions were accepted, of those asked for."""
    found = rig.take()
    assert {kind for kind, _ in found} <= {VERSION_RESPONSE}
    return [bool(struct.unpack("<Q", body)[0]) for _, body in found]


# Handshake.


def test_nobody_is_there_at_first() -> None:
    rig = HostRig()
    rig.guest_says(version_request(V2_0))
    assert rig.take() == []
    assert rig.state() is HostState.WAIT_RESET
    assert not rig.host.is_running
    assert rig.host.capabilities == ()
    assert rig.host.actual_pages == 0
    assert rig.host.deadline_ns is None


@pytest.mark.parametrize("accepted", [V2_0, V1_0, V0_3])
def test_the_ladder_ends_at_the_version_that_is_accepted(accepted: int) -> None:
    rig = HostRig(HypervHostSettings(version_min=accepted, version_max=accepted))
    rig.host.attach(rig.memory)
    for version in (V2_0, V1_0, V0_3):
        rig.guest_says(version_request(version, last=version == V0_3))
        assert answers(rig) == [version == accepted]
        if version == accepted:
            break
    assert rig.state() is HostState.CAPS


@pytest.mark.parametrize(
    ("version", "accepted"),
    [(2, False), (3, True), (4, True), (V2_0, True), (V2_0 + 1, False), (2**32 - 1, False)],
)
def test_any_version_between_the_oldest_and_the_newest_is_accepted(
    version: int, accepted: bool
) -> None:
    rig = HostRig()
    rig.host.attach(rig.memory)
    rig.guest_says(version_request(version))
    assert answers(rig) == [accepted]


def test_a_guest_that_is_refused_may_ask_again() -> None:
    rig = HostRig()
    rig.host.attach(rig.memory)
    rig.guest_says(version_request(1), version_request(2), version_request(V1_0))
    assert answers(rig) == [False, False, True]


def test_capabilities_are_accepted_and_the_most_memory_told() -> None:
    rig = HostRig(PATIENT, pages=1 << 18)
    rig.host.attach(rig.memory)
    rig.guest_says(version_request(V2_0))
    rig.take()
    rig.guest_says(capabilities_report(BALLOON | HOT_ADD | 7 << 2))
    (kind, body), (info, told) = rig.take()
    assert (kind, struct.unpack("<Q", body)) == (CAPABILITIES_RESPONSE, (0b011,))
    assert (info, struct.unpack("<4IQ", told)) == (INFO, (0, 16, 0, 8, 1 << 18))
    assert rig.host.is_running
    assert rig.host.capabilities == ("version 2.0", "balloon", "hot add", "alignment 128 MiB")


def test_the_oldest_version_knows_no_info_and_reports_may_be_suppressed() -> None:
    rig = HostRig(HypervHostSettings())
    rig.host.attach(rig.memory)
    rig.guest_says(version_request(V0_3))
    rig.take()
    rig.guest_says(capabilities_report())
    ((kind, body),) = rig.take()
    assert (kind, struct.unpack("<Q", body)) == (CAPABILITIES_RESPONSE, (0b111,))
    assert rig.host.capabilities == ("version 0.3", "balloon")


def test_answers_of_the_handshake_have_the_number_of_the_question() -> None:
    rig = HostRig()
    rig.host.attach(rig.memory)
    rig.guest_says(version_request(V2_0), capabilities_report())
    assert [struct.unpack_from("<I", raw, 4)[0] for raw in rig.sent] == [77, 77, 77]


def test_nothing_is_asked_for_in_the_first_50_seconds() -> None:
    rig = HostRig(PATIENT)
    rig.host.attach(rig.memory)
    rig.guest_says(version_request(V2_0), capabilities_report())
    rig.take()
    rig.host.set_target(1000)
    assert rig.host.deadline_ns == rig.clock.now_ns() + 50_000_000_000
    rig.clock.advance(49.9)
    rig.host.expired()
    assert rig.take() == []
    assert rig.state() is HostState.POST_INIT_WAIT
    rig.clock.advance(0.1)
    rig.host.expired()
    assert rig.requested() == 1000


# Balloon.


def test_pages_that_are_given_are_dropped_and_counted() -> None:
    rig = HostRig().open()
    rig.host.set_target(1000)
    assert rig.requested() == 1000
    rig.guest_says(balloon_response([(5000, 512)], more=True))
    assert rig.host.actual_pages == 512
    rig.guest_says(balloon_response([(9000, 400), (100, 88)]))
    assert rig.host.actual_pages == 1000
    assert rig.state() is HostState.IDLE
    assert rig.flush() == pages_of([(5000, 512), (9000, 400), (100, 88)])
    assert rig.told() == [512, 1000]
    assert rig.host.given.counters.inflated_pages == 1000
    assert rig.host.request.stage(1000, running=True) is Stage.REACHED
    assert rig.take() == []


def test_a_request_is_for_so_many_pages_as_windows_answers_in_one_go() -> None:
    rig = HostRig().open()
    rig.host.set_target(600_000)
    assert rig.requested() == 585_728
    rig.guest_says(balloon_response([(0, 585_728)]))
    assert rig.requested() == 14_272
    rig.guest_says(balloon_response([(600_000, 14_272)]))
    assert rig.state() is HostState.IDLE


def test_a_guest_that_gives_less_is_asked_for_the_rest_until_it_gives_nothing() -> None:
    rig = HostRig().open()
    rig.host.set_target(1000)
    rig.take()
    rig.guest_says(balloon_response([(0, 300)]))
    assert rig.requested() == 700
    rig.guest_says(balloon_response([]))
    assert rig.state() is HostState.IDLE
    assert (rig.host.actual_pages, rig.host.target_pages) == (300, 1000)
    rig.clock.advance(3600)
    rig.host.expired()
    assert rig.take() == []
    rig.host.set_target(1000)  # asked for again
    assert rig.requested() == 700


def test_511_ranges_come_in_two_messages() -> None:
    rig = HostRig().open()
    rig.host.set_target(511)
    rig.take()
    rig.guest_says(balloon_response([(2 * i, 1) for i in range(510)], more=True))
    assert rig.state() is HostState.BALLOON_REPLY_WAIT
    rig.guest_says(balloon_response([(2 * 510, 1)]))
    assert rig.state() is HostState.IDLE
    assert rig.host.actual_pages == 511
    assert rig.flush() == {2 * i for i in range(511)}


def test_more_with_zero_ranges_is_the_end_all_the_same() -> None:
    rig = HostRig().open()
    rig.host.set_target(511)
    rig.take()
    rig.guest_says(balloon_response([], more=True))
    assert rig.state() is HostState.IDLE


def test_each_transaction_has_the_next_number() -> None:
    rig = HostRig().open()
    for number in range(3):
        rig.host.set_target(10 * (number + 1))
        assert struct.unpack_from("<I", rig.sent[-1], 4)[0] == number
        rig.guest_says(balloon_response([(10 * number, 10)]))


def test_a_guest_without_the_capability_is_not_asked() -> None:
    rig = HostRig().open(bits=0)
    rig.host.set_target(100)
    assert rig.take() == []
    assert rig.state() is HostState.IDLE


def test_a_target_beyond_all_memory_is_only_a_request() -> None:
    rig = HostRig().open()
    rig.host.set_target(1 << 60)
    assert rig.requested() == 585_728
    rig.guest_says(balloon_response([]))
    assert rig.state() is HostState.IDLE


# Unballoon.


def test_what_goes_back_is_one_range_a_message() -> None:
    rig = HostRig().open()
    rig.give([(5000, 512), (9000, 400), (100, 88)])
    rig.flush()
    rig.host.set_target(300)
    assert rig.returned() == [(100, 88, True), (5000, 512, True), (9000, 100, False)]
    assert rig.host.actual_pages == 300
    assert rig.state() is HostState.UNBALLOON_REPLY_WAIT
    rig.guest_says(unballoon_response())
    assert rig.state() is HostState.IDLE
    rig.host.set_target(0)
    assert rig.returned() == [(9100, 300, False)]


def test_a_range_that_goes_back_has_2_gib_at_most() -> None:
    rig = HostRig().open()
    rig.give([(0, 524_288), (524_288, 10)])
    rig.host.set_target(0)
    assert rig.returned() == [(0, 524_288, True), (524_288, 10, False)]


def test_pages_are_the_guest_s_before_the_message_is_sent() -> None:
    """Whatever waits to be dropped must have been forgotten by then."""
    rig = HostRig().open()
    rig.give([(0, 100)])
    rig.room = 0
    rig.host.set_target(40)
    assert rig.sent == []
    assert rig.flush() == pages_of([(60, 40)])
    rig.room = 1
    rig.clock.advance(1)
    rig.host.expired()
    assert rig.returned() == [(0, 60, False)]


def test_many_ranges_go_back_in_turns() -> None:
    rig = HostRig().open()
    rig.give([(2 * i, 1) for i in range(500)])
    rig.host.set_target(0)
    rounds = 0
    returned = rig.returned()
    while rig.host.deadline_ns == 0:
        assert len(returned) < 500
        rig.host.expired(busy=True)
        returned += rig.returned()
        rounds += 1
    assert rounds > 3
    assert [first for first, _, _ in returned] == [2 * i for i in range(500)]
    assert [more for _, _, more in returned] == [True] * 499 + [False]


# Targets.


def test_a_target_that_changes_in_the_middle_is_looked_at_afterwards() -> None:
    rig = HostRig().open()
    rig.host.set_target(1000)
    rig.take()
    rig.guest_says(balloon_response([(0, 600)], more=True))
    rig.host.set_target(200)
    assert rig.take() == []
    assert rig.state() is HostState.BALLOON_REPLY_WAIT
    rig.flush()
    assert rig.host.deadline_ns is None
    rig.guest_says(balloon_response([(600, 400)]))
    assert rig.returned() == [(0, 800, False)]
    rig.host.set_target(900)
    assert rig.take() == []
    rig.guest_says(unballoon_response())
    assert rig.requested() == 700


def test_a_target_of_the_same_size_in_the_middle_is_a_request_to_try_again() -> None:
    rig = HostRig().open()
    rig.host.set_target(1000)
    rig.take()
    rig.host.set_target(1000)
    rig.guest_says(balloon_response([]))
    assert rig.requested() == 1000


def test_times_of_an_older_request_are_not_those_of_the_newest() -> None:
    rig = HostRig().open()
    rig.host.set_target(1000)
    rig.host.set_target(500)
    assert rig.host.request.times.sent_ns is None
    rig.guest_says(balloon_response([(0, 1000)]))
    assert rig.host.request.times.sent_ns is not None
    assert rig.host.request.times.read_ns is None
    rig.guest_says(unballoon_response())
    assert rig.host.request.times.read_ns is not None


def test_a_full_ring_only_makes_the_host_wait() -> None:
    rig = HostRig().open()
    rig.room = 0
    rig.host.set_target(100)
    assert rig.host.deadline_ns == rig.clock.now_ns() + 20_000_000
    rig.clock.advance(0.02)
    rig.host.expired()
    assert rig.counted("full_rings") == 2
    rig.room = 1
    rig.clock.advance(0.02)
    rig.host.expired()
    assert rig.requested() == 100
    assert rig.host.deadline_ns is None


# The guest comes and goes.


def test_all_is_forgotten_with_the_channel_but_the_target() -> None:
    rig = HostRig().open()
    rig.give([(0, 100), (1 << 30, 5)])
    rig.host.detach()
    assert rig.state() is HostState.WAIT_RESET
    assert rig.host.actual_pages == 0
    assert rig.host.target_pages == 105
    assert rig.memory.dropped == pages_of([(0, 100)])
    rig.guest_says(balloon_response([(0, 100)]))
    assert rig.counted("unexpected_messages") == 0
    rig.open()
    assert rig.host.describe()["removed-guest-pages"] == 0
    rig.guest_says(balloon_response([(7, 105)]))  # the target was asked for at once
    assert rig.host.actual_pages == 105


def test_no_request_of_the_last_guest_reaches_the_next() -> None:
    rig = HostRig().open()
    rig.room = 0
    rig.host.set_target(100)
    rig.host.detach()
    rig.room = 10
    rig.host.attach(rig.memory)
    rig.clock.advance(10)
    rig.host.expired()
    assert rig.take() == []
    assert sum(isinstance(fact, GuestChanged) for fact in rig.facts) == 3


def test_a_reset_of_the_machine_drops_nothing_more() -> None:
    rig = HostRig().open()
    rig.give([(0, 100)])
    rig.host.reset_system()
    assert rig.flush() == set()
    assert rig.state() is HostState.VERSION
    assert rig.host.actual_pages == 0


# Status.


def test_a_status_report_is_kept_with_its_time() -> None:
    rig = HostRig(HypervHostSettings(post_init_wait_ns=0, status_report=True)).open()
    assert rig.host.status_report is None
    rig.guest_says(status_report(1000, 2000))
    received_ns = rig.clock.now_ns()
    rig.clock.advance(3)
    assert rig.host.status_report == (1000 * 4096, 2000 * 4096, received_ns)
    assert rig.host.given.counters.stats_messages == 1
    assert any(isinstance(fact, StatusReported) for fact in rig.facts)
    rig.guest_says(status_report(2**64 - 1, 2**64 - 1))
    assert rig.host.status_report is not None
    assert rig.host.status_report[:2] == (2**64 - 1, 2**64 - 1)
    rig.host.detach()
    assert rig.host.status_report is None


def test_a_status_report_that_is_not_wanted_is_no_fault() -> None:
    rig = HostRig(AT_ONCE).open()
    rig.guest_says(status_report(1000, 2000))
    assert rig.host.status_report is None
    assert rig.counted("unexpected_messages") == 0


# Around it.


def test_big_host_pages_are_dropped_when_every_part_was_given() -> None:
    region = Region(0, 64 << 20, 1 << 40, 0, page_bytes=65536)
    rig = HostRig(regions=[region]).open()
    rig.give([(0, 24), (40, 8)])
    assert rig.host.actual_pages == 32
    assert rig.flush() == pages_of([(0, 16)])
    rig.host.set_target(100)
    rig.guest_says(balloon_response([(24, 16)]))
    assert rig.flush() == pages_of([(0, 48)])


def test_whoever_wants_details_hears_of_each_message() -> None:
    rig = HostRig()
    details: list[object] = []
    rig.host.given.observers.add(details.append, details=True)
    rig.open()
    rig.give([(0, 100), (200, 7)])
    found = [one for one in details if isinstance(one, MessageReceived)]
    assert [one.name for one in found] == [
        *("VersionRequest", "CapabilitiesReport", "BalloonResponse")
    ]
    assert found[-1].arguments == {"trans_id": 77, "ranges": 2, "pages": 107, "more": False}


def test_the_host_describes_itself() -> None:
    rig = HostRig().open()
    rig.give([(0, 100), (1 << 30, 3)])
    found = rig.host.describe()
    assert found["state"] == "idle"
    assert found["version"] == "2.0"
    assert found["max-pages"] == 1 << 20
    assert found["removed-both-pages"] == 100
    assert found["removed-guest-pages"] == 3
    assert found["trans-id"] == 1
    assert rig.host.kind == "hyperv"
    rig.host.detach()
    assert rig.host.describe()["state"] == "wait-reset"


@pytest.mark.parametrize(("gpa", "size"), [(4096, 4095), (4095, 4096), (1 << 52, 4096)])
def test_extra_memory_consists_of_pages_that_have_a_name(gpa: int, size: int) -> None:
    with pytest.raises(SettingsError, match="extra memory"):
        HostRig(HypervHostSettings(extra_gpa=gpa, extra_bytes=size))


def test_the_order_of_requests_is_the_order_of_the_protocol() -> None:
    rig = HostRig().open()
    rig.host.set_target(10)
    rig.guest_says(balloon_response([(0, 10)]))
    rig.host.set_target(0)
    assert [kind for kind, _ in rig.take()] == [BALLOON_REQUEST, UNBALLOON_REQUEST]
