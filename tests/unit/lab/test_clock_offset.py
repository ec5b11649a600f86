"""Two clocks become one, and how wrong that may be is known."""

from __future__ import annotations

import pytest

from ballonet.errors import GuestError
from ballonet.lab.clock_offset import RoundTrip, SharedClock, shortest


def trip(sent_ns: int, heard_ns: int, *, ahead_ns: int, part: float) -> RoundTrip:
    """A mark that was written after a `part` of its round trip, by a clock so far ahead."""
    return RoundTrip(sent_ns, sent_ns + int((heard_ns - sent_ns) * part) + ahead_ns, heard_ns)


def test_the_middle_of_a_round_trip_is_when_the_mark_was_written() -> None:
    one = RoundTrip(sent_ns=1_000_000, marked_ns=501_500_000, heard_ns=2_000_000)
    assert one.offset_ns == 500_000_000
    assert SharedClock([one]).ours_ns(501_500_000) == 1_500_000
    assert SharedClock([one]).ours_ns(501_500_007) == 1_500_007


@pytest.mark.parametrize("ahead_ns", [-(10**12), 0, 10**12])
@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
def test_it_is_not_wrong_by_more_than_the_error(ahead_ns: int, part: float) -> None:
    one = trip(5_000_000, 9_000_000, ahead_ns=ahead_ns, part=part)
    assert one.error_ns == 2_001_000
    assert abs(one.offset_ns - ahead_ns) <= one.error_ns


def test_the_shortest_round_trip_says_most() -> None:
    trips = [RoundTrip(0, 7, 100), RoundTrip(200, 8, 220), RoundTrip(300, 9, 400)]
    assert shortest(trips) == trips[1]
    with pytest.raises(GuestError, match="no mark of ours"):
        shortest([])


def test_between_two_measurements_the_offset_changes_evenly() -> None:
    first, last = RoundTrip(0, 1_000, 0), RoundTrip(9_000, 11_000, 9_000)
    clock = SharedClock([last, first])
    assert clock.offset_ns == 1_000
    assert clock.ours_ns(1_000) == 0
    assert clock.ours_ns(11_000) == 9_000
    assert clock.ours_ns(6_000) == 4_500
    assert clock.ours_ns(0) == -1_000, "before the first, as then"
    assert clock.ours_ns(20_000) == 18_000, "after the last, as then"


def test_the_error_is_that_of_the_worse_measurement() -> None:
    clock = SharedClock([RoundTrip(0, 5, 10_000), RoundTrip(20_000, 9, 20_100)])
    assert clock.error_ns == 6_000
    with pytest.raises(GuestError, match="was not measured"):
        SharedClock([])
