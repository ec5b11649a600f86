"""The loop looks on only where that pays."""

from __future__ import annotations

from ballonet.runtime.spin import PREEMPTED_NS, SPIN_NS, Spin

STEP_NS = 5_000
FAST_NS, SLOW_NS = SPIN_NS // 5, 14 * SPIN_NS


def serve(spin: Spin, now_ns: int, gap_ns: int) -> int:
    """A message, and the next so much later; returns how many looks were made for it."""
    spin.expect_more(now_ns)
    looks = 0
    while looks * STEP_NS < gap_ns and spin.looks_on(now_ns + looks * STEP_NS):
        looks += 1
    return looks


def chances_used(spin: Spin, gaps_ns: list[int]) -> list[int]:
    """After which messages it looked on at all."""
    used, now_ns = [], 0
    for number, gap_ns in enumerate(gaps_ns):
        if serve(spin, now_ns, gap_ns):
            used.append(number)
        now_ns += gap_ns + 1
    return used


def test_nothing_is_looked_for_until_more_is_expected() -> None:
    assert not Spin().looks_on(0)


def test_it_looks_on_for_its_time_and_no_longer() -> None:
    assert serve(Spin(), 7, SLOW_NS) == SPIN_NS // STEP_NS


def test_an_access_to_the_configuration_does_not_end_it() -> None:
    spin = Spin()
    spin.expect_more(0)
    assert spin.looks_on(STEP_NS)
    spin.worked()
    assert spin.looks_on(STEP_NS + PREEMPTED_NS + 1)
    assert spin.looks_on(SPIN_NS - 1 - PREEMPTED_NS) is False  # somebody else ran


def test_while_more_follows_at_once_every_chance_is_used() -> None:
    assert chances_used(Spin(), [FAST_NS] * 100) == list(range(100))


def test_a_slow_message_now_and_then_is_no_reason_to_sleep() -> None:
    assert len(chances_used(Spin(), ([FAST_NS] * 2 + [SLOW_NS]) * 30)) == 90


def test_where_messages_are_far_apart_it_sleeps() -> None:
    assert chances_used(Spin(), [SLOW_NS] * 100) == list(range(11))


def test_after_an_hour_of_silence_it_knows_the_driver_again_within_a_few_messages() -> None:
    gaps_ns = [FAST_NS] * 5 + [3_600 * 1_000_000_000] * 50 + [FAST_NS] * 10
    assert chances_used(Spin(), gaps_ns)[-7:] == [58, 59, 60, 61, 62, 63, 64]


def test_a_processor_that_others_want_is_given_up() -> None:
    spin = Spin()
    spin.expect_more(0)
    assert spin.looks_on(STEP_NS)
    assert not spin.looks_on(STEP_NS + PREEMPTED_NS + 1)
    assert not spin.looks_on(STEP_NS + PREEMPTED_NS + 2)


def test_our_own_work_is_not_taken_for_somebody_elses() -> None:
    spin = Spin()
    spin.expect_more(0)
    assert spin.looks_on(STEP_NS)
    spin.worked()
    assert spin.looks_on(3 * PREEMPTED_NS)
