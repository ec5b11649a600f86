"""The least and the most of a guest's last minute."""

from __future__ import annotations

from typing import Final

from tests.support.rounds import device, machine

from ballonet.agent.peaks import Peaks, PeakWindows

MIB: Final = 1 << 20


class Watched:
    """One guest that is looked at, again and again."""

    def __init__(self) -> None:
        self.windows: Final = PeakWindows()

    def see(self, at_s: float, *, age_s: float | None = 0.0, **statistics: int) -> Peaks:
        found = machine("web", at_s, statistics=statistics, age_s=age_s)
        (peaks,) = self.windows.see([found], at_s)
        return peaks


def test_a_dip_is_seen_for_a_minute_after_it_is_over() -> None:
    guest = Watched()
    guest.see(0.0, memfree=500, avail=900)
    assert guest.see(2.0, memfree=3, avail=7)[:2] == (3, 7)
    assert guest.see(4.0, memfree=600, avail=800)[:2] == (3, 7)
    assert guest.see(62.0, memfree=600, avail=800)[:2] == (3, 7)
    assert guest.see(64.0, memfree=650, avail=850)[:2] == (600, 800)


def test_what_is_available_is_guessed_where_a_driver_does_not_tell() -> None:
    assert Watched().see(0.0, memfree=3, caches=4).lowest_available_bytes == 7


def test_a_burst_is_the_most_of_any_two_samples() -> None:
    guest = Watched()
    assert guest.see(0.0, majflt=100, swap_in=0)[2:] == (None, None)
    assert guest.see(2.0, majflt=1100, swap_in=8 * MIB)[2:] == (500, 4 * MIB)
    assert guest.see(4.0, majflt=1102, swap_in=8 * MIB)[2:] == (500, 4 * MIB)


def test_a_sample_that_is_looked_at_twice_is_one() -> None:
    guest = Watched()
    guest.see(10.0, age_s=0.0, majflt=0)
    guest.see(12.0, age_s=2.1, majflt=0)
    assert guest.see(14.0, age_s=0.0, majflt=400).highest_major_faults_per_s == 100


def test_a_counter_that_fell_is_another_kernel_s() -> None:
    guest = Watched()
    guest.see(0.0, majflt=1000)
    assert guest.see(2.0, majflt=3).highest_major_faults_per_s is None
    assert guest.see(4.0, majflt=5).highest_major_faults_per_s == 1


def test_a_clock_that_was_set_makes_no_rate() -> None:
    guest = Watched()
    guest.see(100.0, majflt=0)
    assert guest.see(102.0, age_s=40.0, majflt=1000).highest_major_faults_per_s is None


def test_where_no_age_is_told_no_rate_is_known_but_a_dip_is() -> None:
    guest = Watched()
    guest.see(0.0, age_s=None, memfree=5, majflt=0)
    assert guest.see(2.0, age_s=None, memfree=9, majflt=50) == Peaks(5, 5, None, None)


def test_a_guest_that_says_nothing_more_has_no_peaks_after_a_minute() -> None:
    guest = Watched()
    guest.see(0.0, memfree=5)
    assert guest.see(61.0, age_s=61.0, memfree=5) == Peaks()


def test_our_device_tells_the_age_more_exactly() -> None:
    windows = PeakWindows()
    for at_s, age_s, faults in ((1.0, 0.5, 0), (2.0, 0.5, 100)):
        found = machine(
            "web", at_s, statistics={"majflt": faults}, device=device(stats_age=age_s), age_s=0.0
        )
        (peaks,) = windows.see([found], at_s)
    assert peaks.highest_major_faults_per_s == 100


def test_one_that_is_gone_is_forgotten() -> None:
    guest = Watched()
    guest.see(0.0, memfree=5)
    assert guest.windows.see([], 2.0) == []
    assert guest.see(4.0, memfree=9).lowest_free_bytes == 9
