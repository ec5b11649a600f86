"""When so much more will be free."""

from __future__ import annotations

import pytest
from tests.support.autopilot_fleet import MIB, Fleet, Guest

from ballonet.autopilot.constants import DEFAULTS
from ballonet.autopilot.prediction import Donor, donors_of, seconds_until

FAST = Donor("a", 200 * MIB, 100 * MIB, 100 * MIB, 20 * MIB)
SLOW = Donor("b", 50 * MIB, 0, 10 * MIB, 2 * MIB)


@pytest.mark.parametrize(
    ("wanted_mib", "seconds"),
    [
        (0, 0.0),
        (110, 1.0),  # both give
        (220, 2.0),
        (200 + 20 + 30, 3.0),  # the fast one's cache, the slow one goes on
        (350, 7.0),  # everything
    ],
)
def test_it_is_found_from_what_each_gives_by_then(wanted_mib: int, seconds: float) -> None:
    assert seconds_until([FAST, SLOW], wanted_mib * MIB, 0) == pytest.approx(seconds, abs=0.01)


def test_what_is_free_already_need_not_come() -> None:
    assert seconds_until([FAST], 300 * MIB, 300 * MIB) == 0.0
    assert seconds_until([FAST], 300 * MIB, 200 * MIB) == pytest.approx(1.0)


def test_what_all_together_do_not_have_never_comes() -> None:
    assert seconds_until([FAST, SLOW], 351 * MIB, 0) is None
    assert seconds_until([], 1, 0) is None


def test_donors_give_what_they_do_not_need_at_the_speed_that_was_measured() -> None:
    fleet = Fleet(1400 * MIB, Guest("a", used=200 * MIB), Guest("b", used=300 * MIB))
    fleet.seconds(20)
    found = {one.vm: one for one in donors_of(fleet.last, DEFAULTS)}
    guest = fleet.guests["a"]
    assert 0 < found["a"].free_bytes + found["a"].cache_bytes < guest.actual - guest.used
    assert found["a"].free_bytes_per_s != DEFAULTS.rate_prior_bytes_per_s
    assert seconds_until(found.values(), 300 * MIB, 0) is not None


def test_who_cannot_be_asked_gives_nothing() -> None:
    fleet = Fleet(1400 * MIB, Guest("a"), Guest("b"))
    fleet.seconds(5)
    fleet.guests["a"].no_answer = "it is gone"
    fleet.second()
    assert {one.vm for one in donors_of(fleet.last, DEFAULTS)} == {"b"}
