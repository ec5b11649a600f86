"""How fast counters grow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.vms.device_info import parse_device_info
from ballonet.vms.observation import Aged, MachineId, Observation
from ballonet.vms.rates import Rates, Sample, rates_between

WHO = MachineId("qemu", "web")


def look(at_s: float, updated_s: int | None, **statistics: int) -> Observation:
    values = {name: Aged(value, 0.0) for name, value in statistics.items()}
    return Observation(WHO, at_s, statistics=values, stats_last_update_s=updated_s)


def rates_after(*looks: Observation) -> Rates:
    rates = Rates()
    for one in looks:
        rates.see(one)
    return rates


def test_a_rate_is_what_was_added_by_the_time_between() -> None:
    before, after = (
        Sample(10.0, {"majflt": 5, "avail": 9}),
        Sample(14.0, {"majflt": 25, "avail": 1}),
    )
    assert rates_between(before, after) == {"majflt": 5.0}


@pytest.mark.parametrize("at_s", [10.0, 9.0])
def test_without_time_between_there_is_no_rate(at_s: float) -> None:
    assert rates_between(Sample(10.0, {"majflt": 5}), Sample(at_s, {"majflt": 25})) == {}


def test_after_a_reset_no_counter_has_a_rate_also_one_that_did_not_fall() -> None:
    before = Sample(10.0, {"majflt": 5, "minflt": 100})
    assert rates_between(before, Sample(20.0, {"majflt": 25, "minflt": 99})) == {}


def test_rates_are_taken_over_some_seconds_because_samples_have_whole_ones() -> None:
    looks = [look(float(s), 1000 + s, majflt=100 * s) for s in range(6)]
    assert rates_after(*looks[:5]).guest == {}
    assert rates_after(*looks).guest == {"majflt": 100.0}


def test_rates_are_of_the_last_seconds_and_not_of_all_time() -> None:
    looks = [look(float(s), 1000 + s, majflt=100 * min(s, 10)) for s in range(20)]
    assert rates_after(*looks[:11]).guest == {"majflt": 100.0}
    assert rates_after(*looks).guest == {"majflt": 0.0}


def test_the_same_sample_seen_again_changes_no_rate() -> None:
    first, then = look(0.0, 1000, swap_in=0), look(6.0, 1006, swap_in=600)
    again = replace(then, at_s=9.0)
    assert rates_after(first, then, again, again).guest == {"swap_in": 100.0}


def test_after_a_reset_there_is_no_rate_until_some_seconds_of_the_new_kernel_are_seen() -> None:
    looks = [look(float(s), 1000 + s, majflt=1000 + s) for s in range(8)]
    looks += [look(8.0 + s, 1008 + s, majflt=10 * s) for s in range(6)]
    assert rates_after(*looks[:-1]).guest == {}
    assert rates_after(*looks).guest == {"majflt": 10.0}


def test_a_new_kernel_that_counts_past_the_old_one_makes_no_rate_of_both() -> None:
    seen = [(0, 1000), (3, 0), (5, 1500)]
    assert rates_after(*(look(float(s), 1000 + s, majflt=count) for s, count in seen)).guest == {}


def test_a_clock_that_goes_back_begins_anew() -> None:
    looks = [look(float(s), 1000 + s, majflt=s) for s in range(8)]
    looks += [look(8.0 + s, 500 + s, majflt=8 + s) for s in range(6)]
    assert rates_after(*looks[:9]).guest == {}
    assert rates_after(*looks).guest == {"majflt": 1.0}


def test_where_the_time_of_a_sample_is_not_told_nothing_is_known() -> None:
    assert rates_after(look(0.0, None, majflt=0), look(60.0, None, majflt=600)).guest == {}


def test_our_counters_have_the_time_of_the_look() -> None:
    def device(at_s: float, pages: int) -> Observation:
        info = parse_device_info({"counters": {"inflated-pages": pages}})
        return Observation(WHO, at_s, device=info)

    assert rates_after(device(0.0, 0), device(2.0, 512)).device == {"inflated_pages": 256.0}
    assert rates_after(device(0.0, 700), device(2.0, 512)).device == {}


@given(
    st.integers(1, 10_000),
    st.lists(st.floats(0.5, 4.0), min_size=12, max_size=40),
)
def test_a_steady_counter_has_its_rate_to_a_fifth_whatever_part_of_a_second_is_lost(
    per_s: int, steps_s: list[float]
) -> None:
    rates, now_s = Rates(), 1000.0
    for step_s in steps_s:
        now_s += step_s
        rates.see(look(now_s, int(now_s), majflt=int(per_s * now_s)))
    assert abs(rates.guest["majflt"] - per_s) <= per_s / 5 + 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-50, 500)), max_size=30))
def test_no_rate_is_negative_nor_more_than_all_that_was_counted(
    steps: list[tuple[int, int]],
) -> None:
    rates, at_s, value = Rates(), 1000, 100
    for step_s, grown in steps:
        at_s, value = at_s + step_s, max(0, value + grown)
        rates.see(look(float(at_s), at_s, minflt=value))
        assert 0 <= rates.guest.get("minflt", 0) <= value / 5
