"""What all VMs together may keep."""

from __future__ import annotations

from ballonet.autopilot.budget import (
    Budget,
    Holding,
    HostRecord,
    HostState,
    budget_of,
    follow_host,
)
from ballonet.autopilot.sample import HostSample
from ballonet.autopilot.settings import Settings

MIB, GIB = 1 << 20, 1 << 30
TOTAL = 64 * GIB
FIXED = Settings(reserve_bytes=1 * GIB)


def budget(host: HostSample, *holdings: Holding, rules: Settings = FIXED, lease: int = 0) -> Budget:
    return budget_of(host, HostRecord(0.0), holdings, rules, lease)


def test_what_is_promised_is_not_free() -> None:
    """8 GiB that a VM may touch, of which the host holds 2."""
    host = HostSample(TOTAL, 20 * GIB)
    one = budget(host, Holding(8 * GIB, 8 * GIB, 2 * GIB))
    assert one.promised_bytes == 6 * GIB
    assert one.free_bytes == 20 * GIB - 1 * GIB - 6 * GIB
    assert one.budget_bytes == one.free_bytes + 8 * GIB


def test_a_page_that_moves_changes_no_budget() -> None:
    """A guest touches 1 GiB; a balloon takes 1 GiB."""
    before = budget(HostSample(TOTAL, 20 * GIB), Holding(8 * GIB, 8 * GIB, 2 * GIB))
    touched = budget(HostSample(TOTAL, 19 * GIB), Holding(8 * GIB, 8 * GIB, 3 * GIB))
    taken = budget(HostSample(TOTAL, 21 * GIB), Holding(7 * GIB, 7 * GIB, 1 * GIB))
    assert before.budget_bytes == touched.budget_bytes == taken.budget_bytes


def test_what_was_asked_for_counts_until_it_has_come() -> None:
    asked = budget(HostSample(TOTAL, 20 * GIB), Holding(8 * GIB, 4 * GIB, 2 * GIB))
    assert asked.charged_bytes == 8 * GIB


def test_of_a_vm_that_nobody_can_measure_everything_is_promised() -> None:
    one = budget(HostSample(TOTAL, 20 * GIB), Holding(8 * GIB, 8 * GIB, None))
    assert one.promised_bytes == 8 * GIB


def test_a_lease_is_not_free() -> None:
    assert budget(HostSample(TOTAL, 20 * GIB), lease=16 * GIB).free_bytes == 3 * GIB


def test_a_fixed_budget_is_a_limit_to_the_sum_of_sizes() -> None:
    rules = Settings(reserve_bytes=GIB, budget_bytes=10 * GIB)
    host = HostSample(TOTAL, 60 * GIB)
    one = budget(host, Holding(8 * GIB, 6 * GIB, 1 * GIB), rules=rules)
    assert one.free_bytes == 2 * GIB
    assert one.budget_bytes == 10 * GIB


def test_where_nothing_is_known_nobody_gets_and_nobody_owes() -> None:
    one = budget(HostSample(), Holding(8 * GIB, 8 * GIB, 2 * GIB))
    assert one.free_bytes == 0
    assert one.budget_bytes == 8 * GIB


def usual_reserve(total: int, available: int, *, growth: int = 0) -> int:
    record = HostRecord(0.0, others_growth_bytes=growth)
    return budget_of(HostSample(total, available), record, (), Settings(), 0).reserve_bytes


def test_the_reserve_is_half_a_gib_a_fiftieth_of_large_hosts_a_twentieth_of_small_ones() -> None:
    assert usual_reserve(16 * GIB, 8 * GIB) == 512 * MIB
    assert usual_reserve(100 * GIB, 8 * GIB) == 2 * GIB
    assert usual_reserve(2 * GIB, GIB) == 2 * GIB // 20


def test_the_reserve_grows_with_what_else_grows_on_the_host() -> None:
    assert usual_reserve(100 * GIB, GIB, growth=100 * MIB) == 2 * GIB + 300 * MIB
    assert usual_reserve(100 * GIB, GIB, growth=50 * GIB) == 5 * GIB


def states(*available: int, seconds: float = 1.0) -> list[HostState]:
    record, found = None, []
    for index, one in enumerate(available):
        record = follow_host(record, HostSample(TOTAL, one), (), FIXED, index * seconds)
        found.append(record.state)
    return found


def test_a_worse_state_is_entered_at_once() -> None:
    seen = states(2 * GIB, 900 * MIB, 600 * MIB, 100 * MIB)
    assert seen == [HostState.GREEN, HostState.YELLOW, HostState.ORANGE, HostState.RED]


def test_a_better_one_needs_a_margin_and_ten_seconds() -> None:
    rules = Settings(reserve_bytes=GIB)
    record = follow_host(None, HostSample(TOTAL, 900 * MIB), (), rules, 0.0)
    for at_s in range(1, 30):
        record = follow_host(record, HostSample(TOTAL, GIB + 1), (), rules, float(at_s))
        assert record.state is HostState.YELLOW
    for at_s in range(30, 40):
        record = follow_host(record, HostSample(TOTAL, 2 * GIB), (), rules, float(at_s))
        assert record.state is HostState.YELLOW
    record = follow_host(record, HostSample(TOTAL, 2 * GIB), (), rules, 40.0)
    assert record.state is HostState.GREEN


def test_a_host_on_which_everything_waits_is_red_whatever_is_available() -> None:
    host = HostSample(TOTAL, 32 * GIB, full_stall_share=0.06)
    assert follow_host(None, host, (), FIXED, 0.0).state is HostState.RED
