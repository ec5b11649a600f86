"""When another pass pays, and when there was time enough."""

from __future__ import annotations

import pytest
from tests.support.clock import FakeClock

from ballonet.errors import MigrationError
from ballonet.migration.convergence import Convergence
from ballonet.migration.settings import MigrationSettings, OnTimeout

MIB = 1 << 20
S = 1_000_000_000


def made(**settings: object) -> tuple[Convergence, FakeClock]:
    clock = FakeClock()
    return Convergence(MigrationSettings(**settings), clock), clock  # type: ignore[arg-type]


def test_the_guest_may_stop_when_the_rest_fits_into_the_downtime() -> None:
    convergence, _ = made(downtime_ns=S // 10)
    convergence.sent(100 * MIB, S)
    assert not convergence.may_stop(11 * MIB // 4096)
    assert convergence.may_stop(10 * MIB // 4096)


def test_the_state_counts_for_the_downtime() -> None:
    convergence, _ = made(downtime_ns=S // 10)
    convergence.sent(100 * MIB, S)
    convergence.state_ns = S // 20
    assert not convergence.may_stop(6 * MIB // 4096)
    assert convergence.may_stop(5 * MIB // 4096)


def test_before_anything_was_sent_nothing_is_known() -> None:
    convergence, _ = made()
    assert convergence.downtime_ns(1) is None
    assert convergence.eta_ns(1) is None
    assert not convergence.may_stop(1)
    assert convergence.may_stop(0)


def test_a_limit_of_the_bandwidth_leaves_time_between_pieces() -> None:
    convergence, clock = made(bandwidth_bytes_per_s=MIB)
    waited_ns = 0
    for _ in range(64):
        wait_ns = convergence.sent(MIB // 4, 0)
        waited_ns += wait_ns
        clock.advance_ns(wait_ns)
    assert waited_ns == pytest.approx(16 * S, rel=0.01)


def test_time_that_was_not_used_is_not_saved_up() -> None:
    convergence, clock = made(bandwidth_bytes_per_s=MIB)
    clock.advance(3600)
    convergence.sent(MIB, 0)
    assert convergence.sent(MIB, 0) > S


def test_the_end_is_expected_at_the_rates_of_now() -> None:
    convergence, _ = made()
    convergence.sent(100 * MIB, S)
    convergence.passed(1000, 50 * MIB // 4096, S)
    assert convergence.eta_ns(100 * MIB // 4096) == 2 * S
    convergence.passed(1000, 100 * MIB // 4096, S)
    assert convergence.eta_ns(1) is None


def test_who_writes_too_much_is_slowed_down_step_by_step() -> None:
    convergence, _ = made(throttles=True)
    seen = []
    for _ in range(40):
        convergence.passed(100, 90, S)
        seen.append(convergence.throttle_percent)
    assert seen[:6] == [0, 20, 20, 30, 30, 40]
    assert seen[-1] == 99


def test_nobody_is_slowed_down_unasked_or_without_need() -> None:
    unasked, _ = made()
    needless, _ = made(throttles=True)
    for _ in range(10):
        unasked.passed(100, 100, S)
        needless.passed(100, 50, S)
    assert unasked.throttle_percent == needless.throttle_percent == 0


def test_the_time_is_over_at_the_limit_and_not_before() -> None:
    convergence, clock = made(timeout_ns=S)
    clock.advance_ns(S - 1)
    assert not convergence.is_overdue()
    clock.advance_ns(1)
    with pytest.raises(MigrationError, match="not done after 1 s"):
        convergence.is_overdue()


def test_a_forced_end_comes_at_the_limit() -> None:
    convergence, clock = made(timeout_ns=S, on_timeout=OnTimeout.FORCE)
    assert not convergence.may_stop(1 << 20)
    clock.advance_ns(S)
    assert convergence.may_stop(1 << 20)
