"""How many bytes of reports pass, against a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.clock import FakeClock

from ballonet.device.report_throttle import ReportThrottle

MIB = 1 << 20


def test_without_a_limit_everything_passes_and_with_zero_nothing() -> None:
    throttle = ReportThrottle(FakeClock())
    assert throttle.admits(1 << 50)
    throttle.set_rate(0)
    assert not throttle.admits(1)
    throttle.set_rate(None)
    assert throttle.admits(1 << 50)


def test_a_second_is_saved_up_and_no_more() -> None:
    clock = FakeClock()
    throttle = ReportThrottle(clock)
    throttle.set_rate(8 * MIB)
    clock.advance(3600)
    assert [throttle.admits(4 * MIB) for _ in range(3)] == [True, True, False]
    clock.advance(0.5)
    assert [throttle.admits(4 * MIB) for _ in range(2)] == [True, False]


def test_one_report_larger_than_the_limit_passes_and_is_paid_for() -> None:
    clock = FakeClock()
    throttle = ReportThrottle(clock)
    throttle.set_rate(MIB)
    assert throttle.admits(10 * MIB)
    clock.advance(8.9)
    assert not throttle.admits(1)
    clock.advance(0.2)
    assert throttle.admits(1)


@pytest.mark.parametrize("step_s", [0.001, 0.0137, 0.5])
@given(rate=st.integers(1, 1 << 40))
def test_in_the_long_run_the_rate_is_kept(step_s: float, rate: int) -> None:
    clock = FakeClock()
    throttle = ReportThrottle(clock)
    throttle.set_rate(rate)
    piece = max(1, rate // 50)
    passed, steps = 0, 200
    for _ in range(steps):
        clock.advance(step_s)
        while throttle.admits(piece):
            passed += piece
    assert passed <= rate * (steps * step_s + 1) + piece
    # The first step earns nothing, as all of a second is saved up; each may lose part of a byte.
    assert passed >= rate * ((steps - 1) * step_s + 1) - steps


def test_what_is_earned_in_steps_too_short_for_a_byte_adds_up() -> None:
    clock = FakeClock()
    throttle = ReportThrottle(clock)
    throttle.set_rate(10)
    passed = 0
    for _ in range(5_000):
        clock.advance(0.001)
        while throttle.admits(1):
            passed += 1
    assert passed == 10 + 50
