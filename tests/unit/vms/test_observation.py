"""One look at a machine."""

from __future__ import annotations

from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.observation import Aged, MachineId, Observation, aged_statistics

WHO = MachineId("qemu", "web")


def test_every_statistic_has_the_age_of_its_sample() -> None:
    assert aged_statistics(GuestStats(100, {"avail": 5, "memfree": 3}), 107.5) == {
        "avail": Aged(5, 7.5),
        "memfree": Aged(3, 7.5),
    }


def test_where_no_age_is_told_there_is_none() -> None:
    assert aged_statistics(GuestStats(None, {"avail": 5}), 107.5) == {"avail": Aged(5, None)}


def test_a_clock_that_went_back_makes_no_sample_of_the_future() -> None:
    assert aged_statistics(GuestStats(100, {"avail": 5}), 90.0) == {"avail": Aged(5, 0.0)}


def test_what_is_available_follows_from_the_statistics_or_is_unknown() -> None:
    look = Observation(WHO, 0.0, statistics={"memfree": Aged(3, 1.0), "caches": Aged(4, 2.0)})
    assert (look.available_bytes, look.stats_age_s) == (7, 2.0)
    look = Observation(WHO, 0.0)
    assert (look.available_bytes, look.stats_age_s) == (None, None)
