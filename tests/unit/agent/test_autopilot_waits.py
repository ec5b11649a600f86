"""How long it took until machines had what they lacked, and gave what they were asked for."""

from __future__ import annotations

import pytest

from ballonet.agent.autopilot.waits import RECLAIM_RATIO, RELIEF_S, Waits
from ballonet.autopilot.constants import DEFAULTS
from ballonet.autopilot.law import FIRST, LawState, step
from ballonet.autopilot.sample import HostSample, Round, VmSample
from ballonet.autopilot.settings import Settings

MIB = 1 << 20
MEMORY_BYTES = 4096 * MIB
SETTINGS = Settings(budget_bytes=3072 * MIB)


class Machine:
    """One that does what it is asked, if it does."""

    def __init__(self) -> None:
        self.actual_bytes, self.used_bytes = MEMORY_BYTES, 300 * MIB
        self.waits = Waits()
        self._state: LawState = FIRST

    def look(self, at_s: float, *, obeys: bool = True) -> None:
        """One round; afterwards it has what it was asked to keep."""
        available_bytes = max(0, self.actual_bytes - self.used_bytes)
        sample = VmSample(
            "web",
            MEMORY_BYTES,
            self.actual_bytes,
            statistics={"avail": available_bytes, "memtotal": self.actual_bytes},
            statistics_id=at_s,
            statistics_age_s=0.0,
            has_driver=True,
        )
        decided = step(self._state, Round(at_s, HostSample(), (sample,)), SETTINGS)
        self.waits.follow(decided, DEFAULTS)
        self._state = decided.state
        if obeys:
            self.actual_bytes = decided.state.vms["web"].sizes.target_bytes

    def counted(self, name: str) -> dict[str, float]:
        """Of one histogram: how many, and their sum."""
        (metric,) = self.waits.histograms[name].collect()
        return {one.name.removeprefix(f"{name}_"): one.value for one in metric.samples}


def test_a_reclaim_is_compared_with_what_was_predicted_for_it() -> None:
    machine = Machine()
    machine.look(0.0)  # asked for 16 MiB, to see whether its balloon works: too short to count
    machine.look(1.0)  # asked for what it gives within 2 s
    assert machine.counted(RECLAIM_RATIO)["count"] == 0
    machine.look(2.0)  # it has
    counted = machine.counted(RECLAIM_RATIO)
    assert counted["count"] == 1
    assert counted["sum"] == pytest.approx(0.5, abs=0.1)


def test_a_reclaim_lasts_until_the_memory_has_come() -> None:
    machine = Machine()
    machine.look(0.0)
    for at_s in range(1, 5):
        machine.look(float(at_s), obeys=False)
    assert machine.counted(RECLAIM_RATIO)["count"] == 0
    machine.actual_bytes -= 256 * MIB
    machine.look(5.0)
    counted = machine.counted(RECLAIM_RATIO)
    assert counted["count"] == 1
    assert counted["sum"] == pytest.approx(2.0, abs=0.1)


def small() -> tuple[Machine, float]:
    """One that has given all it can, and when."""
    machine = Machine()
    for at_s in range(30):
        machine.look(float(at_s))
    assert machine.actual_bytes < MEMORY_BYTES
    return machine, 30.0


def test_relief_takes_from_the_lack_until_the_memory_is_there() -> None:
    machine, at_s = small()
    machine.used_bytes = machine.actual_bytes - 16 * MIB
    for _ in range(3):
        machine.look(at_s, obeys=False)
        at_s += 1.0
    assert machine.counted(RELIEF_S)["count"] == 0
    machine.used_bytes = 2048 * MIB
    machine.actual_bytes = MEMORY_BYTES
    machine.look(at_s)
    assert (machine.counted(RELIEF_S)["count"], machine.counted(RELIEF_S)["sum"]) == (1, 3.0)


def test_a_need_that_goes_away_is_no_relief() -> None:
    machine, at_s = small()
    machine.used_bytes = machine.actual_bytes - 16 * MIB
    machine.look(at_s, obeys=False)
    machine.used_bytes = 300 * MIB
    for later_s in range(1, 60):
        machine.look(at_s + later_s, obeys=False)
    assert machine.counted(RELIEF_S)["count"] == 0
