"""What went wrong elsewhere, played to the autopilot's law: it must not go wrong here.

Names of the first kind are the failure's place and number.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.autopilot_fleet import MIB, Fleet, Guest

from ballonet.autopilot.alarms import AlarmKind
from ballonet.autopilot.budget import HostState
from ballonet.autopilot.explanation import Reason
from ballonet.autopilot.record import Asked
from ballonet.autopilot.settings import Mode, Settings, VmPolicy
from ballonet.autopilot.vm_state import VmState

GIB = 1024 * MIB


def two(total_mib: int = 1400, **settings: object) -> Fleet:
    """Two VMs of 1 GiB, one of which is to give."""
    rules = Settings(reserve_bytes=0, **settings)  # type: ignore[arg-type]
    return Fleet(total_mib * MIB, Guest("a"), Guest("b"), settings=rules)


def state_of(fleet: Fleet, vm: str) -> VmState:
    return fleet.state.vms[vm].state


def kinds(fleet: Fleet) -> set[AlarmKind]:
    return {one.kind for one in fleet.last.alarms}


def test_vm0_30221_pressure_while_a_reclaim_is_under_way_ends_it_within_two_looks() -> None:
    fleet = two()
    fleet.seconds(3)
    guest = fleet.guests["a"]
    assert guest.target < GIB
    guest.pace = 0.1
    guest.used = guest.actual - 10 * MIB  # a burst, in the middle of giving
    fleet.second()
    assert guest.target >= guest.actual
    guest.pace = 1.0
    fleet.seconds(3)
    assert guest.actual >= guest.used + 20 * MIB


def test_haos_4805_a_vm_at_its_floor_gets_more_as_soon_as_there_is_more() -> None:
    fleet = Fleet(
        4 * GIB,
        Guest("a", actual=256 * MIB, used=250 * MIB),
        Guest("b"),
        settings=Settings(reserve_bytes=0),
    )
    fleet.second()
    assert fleet.guests["a"].target >= 300 * MIB


def test_arcbox_390_without_an_answer_nothing_is_taken() -> None:
    fleet = two(1100)
    for guest in fleet.guests.values():
        guest.says = {}
    assert not [one for step in fleet.seconds(30) for one in step.changes]
    assert {one.reason for one in fleet.last.verdicts} == {Reason.UNKNOWN}


def test_squeezed_38_a_stuck_neighbour_makes_nobody_swing() -> None:
    fleet = Fleet(
        2048 * MIB,
        *(Guest(name, used=200 * MIB) for name in "abc"),
        settings=Settings(reserve_bytes=0),
    )
    fleet.guests["a"].pace = 0.0
    fleet.seconds(200)
    record = fleet.state.vms["a"]
    assert record.progress.failures >= 1
    assert all(fleet.state.vms[vm].asked.changes <= 2 for vm in "bc")
    assert sum(one.actual for one in fleet.guests.values()) <= 2048 * MIB


def test_a_stuck_vm_is_asked_no_further_and_moves_again_once_a_probe_succeeds() -> None:
    fleet = two()
    guest = fleet.guests["a"]
    guest.pace = 0.0
    fleet.seconds(12)
    assert state_of(fleet, "a") is VmState.STUCK
    assert guest.target == guest.actual
    assert AlarmKind.STUCK in kinds(fleet)
    guest.pace = 1.0
    fleet.guests["b"].used = 900 * MIB
    fleet.seconds(40)
    assert state_of(fleet, "a") is VmState.STEADY
    assert guest.actual < GIB


def test_virtio_win_1323_statistics_that_are_all_unset_are_none() -> None:
    """The adapter leaves unset ones out; what is left says nothing of memory."""
    fleet = two()
    fleet.guests["a"].says = {"swap_in": 0}
    fleet.seconds(5)
    assert fleet.guests["a"].target == GIB
    assert fleet.verdict("a").reason is Reason.REFUSED
    assert AlarmKind.LIES in kinds(fleet)


def test_firecracker_5516_statistics_that_nobody_knows_are_passed_over() -> None:
    fleet = two()
    fleet.guests["a"].counters = {"not_invented_yet": -5, "refault": 3}
    fleet.seconds(5)
    assert fleet.guests["a"].actual < GIB


def test_statistics_that_stop_freeze_a_vm_at_what_it_has() -> None:
    fleet = two()
    guest = fleet.guests["a"]
    fleet.second()
    guest.freeze()
    guest.pace = 0.02
    fleet.seconds(12)
    assert fleet.state.vms["a"].state is VmState.STALE
    has = guest.actual
    assert guest.target >= has  # what it was asked for and has not given is not asked for any more
    fleet.guests["b"].used = 1000 * MIB
    fleet.seconds(10)
    assert guest.actual >= has


def test_a_guest_whose_statistics_stopped_drifts_up_to_its_part() -> None:
    """It may be thrashing; what it gets is what nobody else needs."""
    fleet = Fleet(
        1400 * MIB,
        Guest("a", actual=300 * MIB, used=290 * MIB),
        Guest("b", used=300 * MIB),
        settings=Settings(Mode.HOLD, reserve_bytes=0),
    )
    guest = fleet.guests["a"]
    guest.freeze()
    fleet.seconds(60)
    assert guest.target >= 600 * MIB


def test_a_clock_that_jumps_makes_no_statistics_old_or_young() -> None:
    """Their time is a mark, compared for equality and nothing else."""
    fleet = two()
    fleet.seconds(5)
    for jump in (-1e9, 3600.0, 1e9):
        for guest in fleet.guests.values():
            guest.answer = (guest.answer or 0.0) + jump
        fleet.second()
        assert {one.state for one in fleet.state.vms.values()} == {VmState.STEADY}


def test_our_own_clock_that_goes_back_moves_nothing() -> None:
    fleet = two()
    fleet.seconds(30)
    fleet.at_s -= 500.0
    assert not fleet.second().changes


def test_a_vm_that_cannot_be_reached_is_counted_and_left_alone() -> None:
    fleet = two()
    fleet.seconds(20)
    kept = fleet.guests["a"].target
    fleet.guests["a"].no_answer = "its monitor is gone"
    fleet.guests["b"].used = 1000 * MIB
    for _ in range(20):
        assert not [one for one in fleet.second().changes if one.vm == "a"]
    assert fleet.guests["a"].target == kept
    assert kept + fleet.guests["b"].target <= fleet.total
    assert "its monitor is gone" in str(fleet.verdict("a"))
    assert AlarmKind.LOST in kinds(fleet)


def test_floors_above_the_host_are_told_and_nobody_is_pushed_below_its_own() -> None:
    fleet = two(1000, other=VmPolicy(least_bytes=600 * MIB))
    fleet.seconds(40)
    assert AlarmKind.INFEASIBLE in kinds(fleet)
    assert all(one.target >= 600 * MIB for one in fleet.guests.values())


def test_more_use_than_there_is_is_told_and_what_is_used_is_not_taken() -> None:
    fleet = two(1000)
    fleet.seconds(20)
    for _ in range(8):
        for guest in fleet.guests.values():
            guest.used = guest.actual - 2 * MIB
        fleet.second()
        assert all(one.target >= one.used for one in fleet.guests.values())
    assert AlarmKind.SHORTAGE in kinds(fleet)


def test_who_has_more_than_its_part_is_not_asked_for_what_it_uses() -> None:
    """Half of what there is would be 700 MiB for each."""
    fleet = two(1400)
    fleet.seconds(5)
    fleet.guests["a"].used = 800 * MIB
    fleet.seconds(20)
    for _ in range(20):
        fleet.guests["b"].used = fleet.guests["b"].actual - 5 * MIB
        fleet.second()
        assert fleet.guests["a"].target >= 820 * MIB
    assert fleet.verdict("b").reason is Reason.WAITS


def test_a_slow_guest_is_asked_no_further_ahead_than_it_gives_in_two_seconds() -> None:
    """It is thought to give 100 MiB/s until it has shown what it gives."""
    slow = Guest("a", memory=8 * GIB, actual=8 * GIB - 64 * MIB, pace=0.02)
    fleet = Fleet(6 * GIB, slow, settings=Settings(reserve_bytes=0))
    for _ in range(30):
        fleet.second()
        assert slow.actual - slow.target <= 200 * MIB


@pytest.mark.parametrize("why", ["it is paused", "it migrates"])
def test_a_vm_that_somebody_else_works_with_gets_no_command(why: str) -> None:
    fleet = two()
    fleet.second()
    fleet.guests["a"].in_use = why
    for _ in range(30):
        assert not [one for one in fleet.second().changes if one.vm == "a"]
    assert why in str(fleet.verdict("a"))


def test_a_vm_that_an_operator_excludes_keeps_what_it_has_from_then_on() -> None:
    fleet = two()
    fleet.seconds(20)
    fleet.set(policies={"a": VmPolicy(is_excluded=True)})
    fleet.guests["b"].used = 1000 * MIB
    kept = fleet.guests["a"].target
    fleet.seconds(20)
    assert fleet.guests["a"].target == kept


def test_a_kernel_that_begins_anew_sees_all_its_memory_and_is_asked_for_none() -> None:
    fleet = two()
    fleet.guests["a"].counters = {"majflt": 500}
    fleet.seconds(20)
    guest = fleet.guests["a"]
    guest.counters, guest.actual, guest.used = {"majflt": 2}, GIB, 60 * MIB
    fleet.second()
    assert fleet.state.vms["a"].state is VmState.BOOT
    assert guest.target == GIB
    fleet.guests["b"].used = 900 * MIB
    fleet.seconds(60)
    assert guest.target == GIB


def test_a_vm_that_comes_later_is_as_one_whose_kernel_has_just_begun() -> None:
    fleet = two(2500)
    fleet.seconds(5)
    fleet.guests["c"] = Guest("c")
    fleet.seconds(20)
    assert fleet.guests["c"].target == GIB
    assert fleet.state.vms["c"].state is VmState.BOOT


def test_vms_that_go_leave_their_memory_to_the_others() -> None:
    fleet = two(1400)
    fleet.seconds(20)
    del fleet.guests["b"]
    fleet.seconds(60)
    assert fleet.guests["a"].target == GIB


def test_an_unproven_balloon_is_asked_for_little_first() -> None:
    fleet = two()
    fleet.second()
    assert {one.from_bytes - one.to_bytes for one in fleet.last.changes} == {16 * MIB}
    fleet.second()
    assert min(one.target for one in fleet.guests.values()) < GIB - 32 * MIB


def test_deflate_on_oom_is_seen_counted_and_the_balloon_set_again() -> None:
    fleet = two()
    guest = fleet.guests["a"]
    guest.deflates_on_oom, guest.counts_balloon = True, True
    fleet.seconds(20)
    guest.used = guest.actual + 80 * MIB
    guest.actual += 90 * MIB  # by its own kernel
    fleet.second()
    assert guest.target >= guest.actual
    record = fleet.state.vms["a"]
    assert record.self_deflations == 1
    assert record.state is VmState.PRESSURE
    assert AlarmKind.SELF_DEFLATED in kinds(fleet)
    assert "out of the balloon" in str(fleet.verdict("a"))


def test_what_was_touched_between_two_answers_is_a_peak_and_cache_is_not() -> None:
    """The host sees it: a burst of which no answer tells."""
    for burst in ("programs", "files"):
        fleet = two(3000, mode=Mode.HOLD)
        fleet.seconds(60)
        guest = fleet.guests["a"]
        before = fleet.last.standings["a"].need.peak_bytes
        guest.touched = 500 * MIB
        guest.caches = 300 * MIB if burst == "files" else 0
        fleet.second()
        after = fleet.last.standings["a"].need.peak_bytes
        assert (after > before + 50 * MIB) == (burst == "programs")


def test_a_lease_is_kept_free_for_who_comes() -> None:
    fleet = two(2200)
    fleet.seconds(20)
    fleet.lease = 700 * MIB
    fleet.seconds(20)
    assert sum(one.actual for one in fleet.guests.values()) <= 1500 * MIB
    assert all(one.actual >= one.used for one in fleet.guests.values())


def test_a_host_that_uses_more_itself_gets_it_back() -> None:
    fleet = two(2200)
    fleet.settings = Settings(reserve_bytes=100 * MIB)
    fleet.seconds(20)
    fleet.others = 700 * MIB
    fleet.seconds(30)
    assert sum(one.actual for one in fleet.guests.values()) <= 1400 * MIB
    assert fleet.last.budget.state is HostState.GREEN


def test_the_budget_does_not_change_by_what_the_autopilot_does() -> None:
    fleet = two(1400)
    budgets = {one.budget.budget_bytes for one in fleet.seconds(40)}
    assert budgets == {1400 * MIB}


def test_hold_leaves_with_the_host_what_nobody_needs() -> None:
    fleet = two(4000, mode=Mode.HOLD)
    fleet.seconds(240)
    assert all(264 * MIB <= one.actual <= 284 * MIB for one in fleet.guests.values())


def test_return_lends_what_nobody_needs() -> None:
    fleet = Fleet(
        2100 * MIB,
        Guest("a", actual=400 * MIB),
        Guest("b"),
        settings=Settings(reserve_bytes=0),
    )
    fleet.seconds(60)
    assert fleet.guests["a"].actual >= 900 * MIB


def test_a_dry_run_decides_the_same_again_and_again_and_remembers_no_command() -> None:
    fleet = two(1400, is_dry_run=True)
    first = {one.vm: one.to_bytes for one in fleet.second().changes}
    for guest in fleet.guests.values():
        guest.target = guest.actual = GIB
    assert {one.vm: one.to_bytes for one in fleet.second().changes} == first
    assert first
    assert all(one.asked == Asked() for one in fleet.state.vms.values())


def test_a_budget_of_the_operators_holds_without_anything_measured() -> None:
    fleet = two(64 * 1024, budget_bytes=1400 * MIB)
    fleet.seconds(30)
    assert sum(one.actual for one in fleet.guests.values()) <= 1400 * MIB


def test_weights_divide_what_is_short() -> None:
    fleet = two(1100, policies={"a": VmPolicy(weight=3000)})
    for guest in fleet.guests.values():
        guest.used, guest.actual = 100 * MIB, 256 * MIB
        guest.target = guest.actual
    fleet.seconds(200)
    spare = {name: one.actual for name, one in fleet.guests.items()}
    assert spare["a"] > spare["b"] + 100 * MIB


def test_somebody_elses_command_is_noticed_and_answered() -> None:
    """What others ask for is not told by QEMU, but a VM that stays below its target shows it."""
    fleet = two(2500)
    fleet.seconds(10)
    guest = fleet.guests["a"]
    guest.actual = guest.target = 300 * MIB
    guest.used = 250 * MIB
    fleet.seconds(12)
    assert guest.actual > 300 * MIB


def test_looks_come_faster_while_something_moves() -> None:
    fleet = two()
    hurried = fleet.second().next_look_s
    assert fleet.seconds(60)[-1].next_look_s > hurried


def test_of_many_who_have_little_to_spare_each_gives_it_when_somebody_lacks_what_he_uses() -> None:
    donors = [Guest(name, actual=433 * MIB, used=400 * MIB, touched=433 * MIB) for name in "bcdefg"]
    wants = Guest("a", actual=420 * MIB, used=416 * MIB, touched=420 * MIB)
    held = sum(one.held for one in (wants, *donors))
    fleet = Fleet(held, wants, *donors, settings=Settings(reserve_bytes=0))
    fleet.seconds(3)
    assert wants.actual >= 440 * MIB
    assert all(one.actual >= 420 * MIB for one in donors)


def test_a_pool_that_is_empty_is_filled_by_those_too_who_got_something_a_while_ago() -> None:
    fleet = Fleet(
        1200 * MIB,
        Guest("a", actual=512 * MIB, used=480 * MIB, touched=512 * MIB),
        Guest("b", actual=512 * MIB, used=200 * MIB, touched=512 * MIB),
        settings=Settings(reserve_bytes=0),
    )
    fleet.second()
    record = replace(fleet.state.vms["b"], asked=Asked(raised_s=fleet.at_s - 10.0))
    fleet.state = replace(fleet.state, vms={**fleet.state.vms, "b": record})
    fleet.total = sum(max(one.actual, one.target, one.held) for one in fleet.guests.values())
    before = fleet.guests["b"].target
    fleet.second()
    assert fleet.guests["b"].target < before
