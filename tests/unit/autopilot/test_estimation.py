"""What a guest needs, from what it says."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ballonet.autopilot.constants import DEFAULTS
from ballonet.autopilot.distress import Answers, Signal
from ballonet.autopilot.estimation import Estimate, Need, estimate, need_of
from ballonet.autopilot.reading import Reading
from ballonet.autopilot.usage import Kept

MIB = 1 << 20
MEMORY = 1024 * MIB
LEAST = 128 * MIB


def said(
    used: int, kept: int = MEMORY, caches: int = 0, free: int | None = None, **counters: int
) -> Reading:
    available = max(0, kept - used)
    return Reading(available, kept, available - caches if free is None else free, caches, counters)


def told(
    readings: Iterable[Reading], kept: int = MEMORY, seconds: float = 1.0, taken: int = 0
) -> Estimate:
    """What is known after these answers, one a second."""
    known: Estimate | None = None
    for reading in readings:
        before = known.reading if known else None
        answers = Answers(before, reading, seconds, MEMORY, taken)
        known = estimate(known, answers, Kept(kept, kept), DEFAULTS)
    assert known is not None
    return known


def need(known: Estimate) -> Need:
    return need_of(known, MEMORY, LEAST, DEFAULTS)


def test_an_idle_guest_needs_what_it_uses_a_pad_and_a_margin() -> None:
    wanted = need(told([said(200 * MIB)]))
    assert wanted.use_bytes == 200 * MIB + DEFAULTS.pad_of(MEMORY)
    assert wanted.growth_bytes == wanted.use_bytes
    assert wanted.peak_bytes == 200 * MIB + DEFAULTS.margin_of(MEMORY)
    assert wanted.cache_bytes == wanted.peak_bytes


def test_it_never_needs_less_than_its_floor_nor_more_than_all() -> None:
    assert need(told([said(10 * MIB)])).use_bytes == LEAST
    assert need(told([said(MEMORY - 1)])).cache_bytes == MEMORY


def test_use_that_rises_is_expected_to_rise_by_as_much_again() -> None:
    known = told([said(200 * MIB), said(300 * MIB)])
    assert 60 * MIB < known.rise_bytes < 100 * MIB
    expected = int(known.rise_bytes * DEFAULTS.rise_times)
    assert need(known).growth_bytes == need(known).use_bytes + expected


def test_a_rise_that_has_ended_is_soon_forgotten() -> None:
    known = told([said(200 * MIB), *[said(300 * MIB)] * 15])
    assert known.rise_bytes < 4 * MIB


def test_a_peak_is_expected_again_for_two_minutes_and_not_for_ever() -> None:
    busy = told([said(200 * MIB), said(600 * MIB), said(200 * MIB)])
    assert need(busy).peak_bytes > 600 * MIB
    assert need(busy).growth_bytes < 300 * MIB
    later = told([said(200 * MIB), said(600 * MIB), *[said(200 * MIB)] * 600])
    assert need(later).peak_bytes < 300 * MIB


def test_a_guest_at_its_limit_wants_more_than_it_can_show() -> None:
    known = told([said(397 * MIB, kept=400 * MIB)], kept=400 * MIB)
    assert known.is_censored
    assert need(known).use_bytes >= 397 * MIB + int(0.35 * 397 * MIB)


def test_a_guest_that_was_killed_at_its_limit_will_want_more_at_once() -> None:
    kept = 300 * MIB
    known = told([said(290 * MIB, kept, oom_kill=0), said(60 * MIB, kept, oom_kill=1)], kept=kept)
    assert Signal.OOM_KILL in known.signals
    assert need(known).use_bytes >= 1.9 * kept


BURST = (100 * MIB, 230 * MIB, 60 * MIB)  #: use that would soon be 300 MiB has collapsed


def test_a_kill_that_an_older_kernel_does_not_tell_is_guessed() -> None:
    """Once it may be a program that has ended, and is served after the use of all."""
    kept = 300 * MIB
    known = told([said(used, kept) for used in BURST], kept=kept)
    assert not known.signals
    assert need(known).use_bytes == LEAST
    assert need(known).growth_bytes >= 1.2 * kept


def test_the_second_guess_is_no_guess() -> None:
    kept = 300 * MIB
    known = told([said(used, kept) for used in (*BURST, *BURST)], kept=kept)
    assert Signal.OOM_KILL in known.signals
    assert need(known).use_bytes >= 1.9 * kept


def test_what_was_wanted_is_forgotten_when_nobody_wants_it_again() -> None:
    kept = 300 * MIB
    known = told([said(used, kept) for used in (*BURST, *BURST, *[60 * MIB] * 120)], kept=kept)
    assert need(known).growth_bytes < 128 * MIB + DEFAULTS.margin_of(MEMORY)


def test_a_guest_that_ran_out_between_two_answers_is_seen_by_what_it_has_touched() -> None:
    """Its answers show 60 MiB in use, then 60 MiB again; meanwhile it touched all of its 300."""
    kept, reading = 300 * MIB, said(60 * MIB, 300 * MIB)
    known = told([reading], kept=kept)
    answers = Answers(reading, reading, 1.0, MEMORY, 0, touched_bytes=296 * MIB)
    known = estimate(known, answers, Kept(kept, kept), DEFAULTS)
    assert need(known).growth_bytes >= 1.2 * kept


@pytest.mark.parametrize(
    "counters", [{"oom_kill": 0}, {"swap_out": 5 << 20}], ids=["none killed", "it has swap"]
)
def test_a_program_that_ends_is_no_kill(counters: dict[str, int]) -> None:
    kept = 300 * MIB
    known = told(
        [
            said(100 * MIB, kept, **counters),
            said(230 * MIB, kept, **counters),
            said(60 * MIB, kept, **counters),
        ],
        kept=kept,
    )
    assert not known.signals
    assert need(known).growth_bytes < kept


def test_a_storm_counts_when_it_lasts_for_two_answers() -> None:
    storm = [said(900 * MIB, free=0, majflt=k * 900) for k in range(3)]
    assert not told(storm[:2]).signals
    assert Signal.MAJOR_FAULTS in told(storm).signals


def test_reading_from_disk_with_memory_to_spare_is_no_suffering() -> None:
    assert not told([said(300 * MIB, majflt=k * 900) for k in range(5)]).signals


def test_stalls_of_the_balloons_own_allocations_are_not_the_guests() -> None:
    storm = [said(900 * MIB, free=0, alloc_stall=k * 300) for k in range(4)]
    assert Signal.STALLS in told(storm).signals
    assert not told(storm, taken=64 * MIB).signals


def test_a_kernel_that_recycles_its_cache_should_have_more_of_it() -> None:
    """Linux 6.12 tells what it reclaims; what the balloon took is not the guest's fault."""
    answers = [
        said(200 * MIB, caches=300 * MIB, direct_reclaim=k * 50 * MIB, async_reclaim=0)
        for k in range(3)
    ]
    assert need(told(answers)).cache_bytes > 500 * MIB
    assert need(told(answers, taken=50 * MIB)).cache_bytes < 300 * MIB


def test_a_lesson_about_its_cache_is_half_forgotten_after_half_an_hour() -> None:
    reclaims = [0, 500 * MIB, *[500 * MIB] * 60]
    answers = [said(200 * MIB, caches=300 * MIB, direct_reclaim=one) for one in reclaims]
    known = told(answers, seconds=30.0)
    lesson = DEFAULTS.cache_step_share * MEMORY + 300 * MIB
    assert known.cache_floor_bytes == pytest.approx(200 * MIB + lesson / 2, rel=0.03)


def test_of_a_kernel_that_does_not_tell_half_the_cache_counts() -> None:
    known = told([said(200 * MIB, caches=300 * MIB)])
    assert need(known).cache_bytes == 350 * MIB


def test_refaults_are_believed_before_reclaims() -> None:
    streaming = [
        said(200 * MIB, caches=300 * MIB, direct_reclaim=k * 50 * MIB, refault=0) for k in range(3)
    ]
    assert need(told(streaming)).cache_bytes < 300 * MIB
    missing = [
        said(200 * MIB, caches=300 * MIB, direct_reclaim=k * 50 * MIB, refault=k * 900)
        for k in range(3)
    ]
    assert need(told(missing)).cache_bytes > 500 * MIB
