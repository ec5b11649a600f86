"""Memory beyond what the guest starts with."""

from __future__ import annotations

import struct

import pytest
from tests.support.hyperv_guest import (
    ALIGN_2_MIB,
    BALLOON,
    GIB_PAGES,
    HOT_ADD,
    HOT_ADD_REQUEST,
    PAGE,
    HostRig,
    balloon_response,
    hot_add_response,
    pages_of,
    unballoon_response,
)

from ballonet.hyperv.host_state import HostState
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.memory.regions import Region

BOOT, EXTRA = GIB_PAGES, 4 * GIB_PAGES
EXTRA_AT = 4 * GIB_PAGES
BITS = BALLOON | HOT_ADD | ALIGN_2_MIB
SETTINGS = HypervHostSettings(
    post_init_wait_ns=0, extra_gpa=EXTRA_AT * PAGE, extra_bytes=EXTRA * PAGE
)
REGIONS = [Region(0, BOOT * PAGE, 1 << 40, 0), Region(EXTRA_AT * PAGE, EXTRA * PAGE, 1 << 41, 0)]


def rig_of(bits: int = BITS) -> HostRig:
    return HostRig(SETTINGS, regions=REGIONS).open(bits)


def offered(rig: HostRig) -> tuple[int, int]:
    """First page and pages of the one chunk that is offered."""
    ((kind, body),) = rig.take()
    assert kind == HOT_ADD_REQUEST
    chunk, region = struct.unpack("<QQ", body)
    assert chunk == region
    return chunk & (1 << 40) - 1, chunk >> 40


def grow(rig: HostRig, pages: int) -> None:
    """Have the guest take so many pages, 2 GiB at most."""
    rig.host.set_target(rig.host.actual_pages - pages)
    assert offered(rig)[1] == pages
    rig.guest_says(hot_add_response(pages, 1))


def test_memory_that_was_never_added_is_not_the_guest_s() -> None:
    rig = rig_of()
    assert rig.host.actual_pages == EXTRA
    assert rig.host.describe()["max-pages"] == BOOT + EXTRA
    rig.host.set_target(EXTRA)
    assert rig.take() == []


def test_a_guest_grows_by_chunks_of_2_gib() -> None:
    rig = rig_of()
    rig.host.set_target(0)
    assert offered(rig) == (EXTRA_AT, 2 * GIB_PAGES)
    rig.guest_says(hot_add_response(2 * GIB_PAGES, 1))
    assert rig.host.actual_pages == 2 * GIB_PAGES
    assert offered(rig) == (EXTRA_AT + 2 * GIB_PAGES, 2 * GIB_PAGES)
    rig.guest_says(hot_add_response(2 * GIB_PAGES, 1))
    assert rig.host.actual_pages == 0
    assert rig.state() is HostState.IDLE
    assert rig.told() == [2 * GIB_PAGES, 0]


def test_the_balloon_is_emptied_first() -> None:
    rig = rig_of()
    rig.host.set_target(EXTRA + 1000)
    rig.take()
    rig.guest_says(balloon_response([(0, 1000)]))
    rig.host.set_target(EXTRA - 512)
    assert rig.returned() == [(0, 1000, False)]
    rig.guest_says(unballoon_response())
    assert offered(rig) == (EXTRA_AT, 512)


@pytest.mark.parametrize(("pages", "result"), [(0, 1), (0, 0), (512, 0)])
def test_a_refusal_is_for_good(pages: int, result: int) -> None:
    rig = rig_of()
    rig.host.set_target(EXTRA - 1024)
    offered(rig)
    rig.guest_says(hot_add_response(pages, result))
    assert rig.state() is HostState.IDLE
    assert rig.host.actual_pages == EXTRA
    rig.host.set_target(0)
    assert rig.take() == []
    assert rig.state() is HostState.IDLE


def test_what_a_guest_takes_of_a_chunk_is_the_last_it_is_offered() -> None:
    rig = rig_of()
    rig.host.set_target(EXTRA - 1024)
    offered(rig)
    rig.guest_says(hot_add_response(300, 1))
    assert rig.host.actual_pages == EXTRA - 300
    rig.host.set_target(0)
    assert rig.take() == []


def test_a_guest_cannot_say_it_took_more_than_there_is() -> None:
    rig = rig_of()
    rig.host.set_target(EXTRA - 1024)
    offered(rig)
    rig.guest_says(hot_add_response(2**32 - 1, 1))
    assert rig.host.actual_pages == EXTRA - 1024


def test_a_guest_without_the_capability_is_offered_nothing() -> None:
    rig = rig_of(BALLOON)
    rig.host.set_target(0)
    assert rig.take() == []


def test_less_than_the_guest_s_unit_is_not_offered() -> None:
    rig = rig_of(BALLOON | HOT_ADD | 7 << 2)
    rig.host.set_target(EXTRA - 1024)
    assert rig.take() == []
    rig.host.set_target(EXTRA - 128 * 256 - 5)
    assert offered(rig) == (EXTRA_AT, 128 * 256)


def test_the_unit_may_be_bigger_than_all_memory() -> None:
    rig = rig_of(BALLOON | HOT_ADD | 15 << 2)
    rig.host.set_target(0)
    assert rig.take() == []
    assert rig.state() is HostState.IDLE


def test_a_target_that_changes_while_nothing_can_be_added_is_looked_at() -> None:
    rig = rig_of()
    rig.host.set_target(EXTRA - 1024)
    rig.take()
    rig.host.set_target(EXTRA + 7)
    rig.guest_says(hot_add_response(0, 1))
    assert rig.requested() == 7


def test_added_memory_is_given_and_goes_back_last() -> None:
    rig = rig_of()
    grow(rig, 1024)
    rig.host.set_target(EXTRA - 1024 + 30)
    rig.take()
    rig.guest_says(balloon_response([(EXTRA_AT + 5, 10), (100, 20)]))
    assert rig.host.actual_pages == EXTRA - 1024 + 30
    assert rig.flush() == pages_of([(EXTRA_AT + 5, 10), (100, 20)])
    rig.host.set_target(EXTRA - 1024)
    assert rig.returned() == [(100, 20, True), (EXTRA_AT + 5, 10, False)]


def test_memory_that_was_not_added_cannot_be_given() -> None:
    rig = rig_of()
    grow(rig, 1024)
    rig.host.set_target(EXTRA)
    rig.take()
    rig.guest_says(balloon_response([(EXTRA_AT + 1000, 1024)]))
    assert rig.host.describe()["removed-guest-pages"] == 1000
    assert rig.host.describe()["removed-both-pages"] == 24
    assert rig.flush() == pages_of([(EXTRA_AT + 1000, 24)])


def test_memory_that_was_given_before_it_was_added_is_never_added() -> None:
    """A guest that made up more pages than it has: some of them are still its to have back."""
    rig = rig_of()
    rig.host.set_target(EXTRA + 1)
    rig.take()
    rig.guest_says(balloon_response([(BOOT, EXTRA_AT - BOOT + 5)]))
    rig.host.set_target(0)
    assert sum(pages for _, pages, _ in rig.returned()) == BOOT
    rig.guest_says(unballoon_response())
    assert rig.take() == []
    assert rig.state() is HostState.IDLE
    assert rig.host.actual_pages == EXTRA


def test_added_memory_outlives_the_channel_and_ends_with_the_machine() -> None:
    rig = rig_of()
    grow(rig, 1024)
    rig.host.detach()
    rig.open(BITS)
    assert rig.host.actual_pages == EXTRA - 1024
    rig.host.reset_system()
    assert rig.host.actual_pages == EXTRA
    assert rig.flush() == set()


def test_a_guest_whose_memory_has_no_room_for_it_has_no_extra_memory() -> None:
    rig = HostRig(SETTINGS, pages=BOOT).open(BITS)
    assert rig.host.actual_pages == 0
    rig.host.set_target(0)
    assert rig.take() == []
