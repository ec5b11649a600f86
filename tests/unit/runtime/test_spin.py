"""The loop looks on only where that has paid."""

from __future__ import annotations

from ballonet.runtime.spin import PREEMPTED_NS, SPIN_NS, Spin

STEP_NS = 5_000


def miss(spin: Spin, now_ns: int) -> int:
    """One chance in which nothing comes; returns how many looks were made."""
    spin.expect_more(now_ns)
    looks = 0
    while spin.looks_on(now_ns + looks * STEP_NS):
        looks += 1
    return looks


def chances_used(spin: Spin, chances: int) -> list[int]:
    """Which of so many chances, a millisecond apart, are used although nothing ever comes."""
    return [i for i in range(chances) if miss(spin, i * 1_000_000)]


def test_nothing_is_looked_for_until_more_is_expected() -> None:
    assert not Spin().looks_on(0)


def test_it_looks_on_for_its_time_and_no_longer() -> None:
    assert miss(Spin(), 7) == SPIN_NS // STEP_NS


def test_while_something_comes_every_chance_is_used() -> None:
    spin = Spin()
    for i in range(100):
        spin.expect_more(i * 1_000_000)
        assert spin.looks_on(i * 1_000_000 + STEP_NS)
        spin.caught()
        assert not spin.looks_on(i * 1_000_000 + 2 * STEP_NS)


def test_where_nothing_ever_comes_ever_fewer_chances_are_used() -> None:
    assert chances_used(Spin(), 300) == [0, 2, 5, 10, 19, 36, 69, 134, 199, 264]


def test_once_something_came_every_chance_is_used_again() -> None:
    spin = Spin()
    assert chances_used(spin, 3) == [0, 2]
    for now_ns in (3_000_000, 4_000_000, 5_000_000):
        spin.expect_more(now_ns)
    assert spin.looks_on(5_000_000)
    spin.caught()
    assert chances_used(spin, 2) == [0]


def test_a_processor_that_others_want_is_given_up() -> None:
    spin = Spin()
    spin.expect_more(0)
    assert spin.looks_on(STEP_NS)
    assert not spin.looks_on(STEP_NS + PREEMPTED_NS + 1)
    spin.expect_more(SPIN_NS)  # passed by
    assert not spin.looks_on(SPIN_NS)


def test_work_between_two_chances_is_not_taken_for_somebody_elses() -> None:
    spin = Spin()
    spin.expect_more(0)
    assert spin.looks_on(STEP_NS)
    spin.caught()
    spin.expect_more(10 * PREEMPTED_NS)
    assert spin.looks_on(10 * PREEMPTED_NS + STEP_NS)
