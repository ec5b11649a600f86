"""What one play on real kernels shows, from what guests reported and what was seen of them.

Units: seconds, GiB.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from bench.autopilot.model.schedule import Schedule, Wish
from bench.autopilot.real.guests import MEMORY_BYTES, MIB

__all__ = ["Outcome", "Seen", "outcome_of"]

#: So much of what is wanted is all of it: reports are of whole MiB and seconds.
_ALL: Final = 0.97


@dataclass
class Seen:
    """Looks at all guests."""

    actual: list[Mapping[str, int]] = field(default_factory=list)  #: bytes, by guest
    targets: list[Mapping[str, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one law and one seed."""

    deaths: int  #: guests that the wall has killed
    kills: int  #: programs that a guest's kernel has killed
    deficit_s: float  #: the missing part of what programs want, times the time
    bursts: str  #: served, of all
    relief_median_s: float  #: later than a burst could have had all it wanted
    relief_most_s: float
    stalls: int  #: waits for memory to be reclaimed
    reads: int  #: of the disk, 16 KiB each
    over_share: float  #: of the looks in which all guests kept more than the budget
    turns: int  #: changes of direction
    moved_gib: float
    kept_share: float  #: of all memory, in the mean
    agent_percent: float  #: of a core, for who decides
    load: float  #: of the machine, at the end


def outcome_of(
    schedules: Sequence[Schedule],
    reports: Sequence[Sequence[Mapping[str, float]]],
    seen: Seen,
    budget_bytes: int,
    *,
    deaths: int,
    agent_percent: float,
    load: float,
) -> Outcome:
    """Everything about one play."""
    reliefs: list[float] = []
    bursts = served = 0
    for schedule, report in zip(schedules, reports, strict=True):
        for wish, following in pairwise(schedule.wishes):
            if wish.anon_share < following.anon_share or wish.anon_share < 0.4:
                continue
            bursts += 1
            late_s = _late_s(wish, following.at_s, report)
            served += late_s is not None
            reliefs.append(following.at_s - wish.at_s if late_s is None else late_s)
    last = [report[-1] if report else {} for report in reports]
    sums = [sum(look.values()) for look in seen.actual]
    return Outcome(
        deaths,
        int(sum(one.get("kills", 0) for one in last)),
        round(sum(_deficit_s(report) for report in reports), 2),
        f"{served}/{bursts}",
        statistics.median(reliefs or [0.0]),
        max(reliefs, default=0.0),
        int(sum(one.get("stalls", 0) for one in last)),
        int(sum(one.get("reads", 0) for one in last)),
        sum(one > budget_bytes for one in sums) / max(1, len(sums)),
        sum(_turns([look[vm] for look in seen.targets if vm in look]) for vm in _names(seen)),
        sum(_moved(seen, vm) for vm in _names(seen)) / (1 << 30),
        statistics.mean(sums or [0]) / (MEMORY_BYTES * len(schedules)),
        agent_percent,
        load,
    )


def _late_s(wish: Wish, end_s: float, report: Sequence[Mapping[str, float]]) -> float | None:
    """How much later than it could have been all was there; None: never."""
    wanted = wish.anon_share * MEMORY_BYTES / MIB
    could_s = wish.at_s + wanted / wish.mib_per_s + 1.0  # reports are a second apart
    for one in report:
        if wish.at_s < one["at"] <= end_s and one["has"] >= wanted * _ALL:
            return max(0.0, one["at"] - could_s)
    return None


def _deficit_s(report: Sequence[Mapping[str, float]]) -> float:
    return sum(
        max(0.0, one["wants"] - one["has"]) / one["wants"] for one in report if one.get("wants")
    )


def _names(seen: Seen) -> Sequence[str]:
    return sorted(seen.actual[0]) if seen.actual else ()


def _turns(targets: Sequence[int]) -> int:
    ways = [after > before for before, after in pairwise(targets) if after != before]
    return sum(one != other for one, other in pairwise(ways))


def _moved(seen: Seen, vm: str) -> int:
    sizes = [look[vm] for look in seen.actual if vm in look]
    return sum(abs(after - before) for before, after in pairwise(sizes))
