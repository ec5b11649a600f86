"""The last rounds of a machine."""

from __future__ import annotations

from ballonet.vms.history import History, Point
from ballonet.vms.observation import Aged, HostMemory, MachineId, Observation


def look(at_s: float, actual_bytes: int) -> Observation:
    return Observation(
        MachineId("qemu", "web"),
        at_s,
        actual_bytes=actual_bytes,
        statistics={"avail": Aged(actual_bytes // 2, 0.0)},
        host=HostMemory(actual_bytes // 4),
    )


def test_the_newest_rounds_stay_and_older_ones_are_forgotten() -> None:
    history = History(rounds_most=3)
    for number in range(1, 6):
        history.see(look(float(number), 100 * number))
    assert history.points == (Point(300, 150, 75), Point(400, 200, 100), Point(500, 250, 125))


def test_a_round_that_tells_nothing_new_is_unknown() -> None:
    history = History()
    for at_s in (1.0, 1.0, 2.0):
        history.see(look(at_s, 100))
    assert history.points == (Point(100, 50, 25), Point(), Point(100, 50, 25))
