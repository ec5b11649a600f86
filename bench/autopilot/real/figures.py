"""What one play on real kernels shows, from what guests reported and what was seen of them.

Units: seconds, GiB.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Protocol

from ballonet.guests.memload import Report, Wish, deficit_s, reliefs
from bench.autopilot.real.guests import MEMORY_BYTES, MIB

__all__ = ["Outcome", "Seen", "Work", "outcome_of"]

#: What counts as one.
_BURST_MIB: Final = 0.4 * MEMORY_BYTES / MIB


class Work(Protocol):
    """What one guest's program was to do, and has done."""

    @property
    def wishes(self) -> Sequence[Wish]:
        """What it wants, from when on."""
        ...

    def report(self) -> Report:
        """A line a second."""
        ...


@dataclass
class Seen:
    """Looks at all guests."""

    actual: list[Mapping[str, int]] = field(default_factory=list)  #: bytes, by guest
    targets: list[Mapping[str, int]] = field(default_factory=list)  #: QEMU tells none


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
    loads: Sequence[Work],
    seen: Seen,
    budget_bytes: int,
    *,
    deaths: int,
    agent_percent: float,
    load: float,
) -> Outcome:
    """Everything about one play."""
    reports = [load.report() for load in loads]
    late = [
        (one, following)
        for load, report in zip(loads, reports, strict=True)
        for one, following in zip(
            reliefs(load.wishes, report, _BURST_MIB), _lengths(load), strict=True
        )
    ]
    late_s = [length_s if one is None else one for one, length_s in late]
    last = [report[-1] if report else {} for report in reports]
    sums = [sum(look.values()) for look in seen.actual]
    return Outcome(
        deaths,
        int(sum(one.get("kills", 0) for one in last)),
        round(sum(deficit_s(report) for report in reports), 2),
        f"{sum(one is not None for one, _ in late)}/{len(late)}",
        statistics.median(late_s or [0.0]),
        max(late_s, default=0.0),
        int(sum(one.get("stalls", 0) for one in last)),
        int(sum(one.get("reads", 0) for one in last)),
        sum(one > budget_bytes for one in sums) / max(1, len(sums)),
        sum(_turns([look[vm] for look in seen.targets if vm in look]) for vm in _names(seen)),
        sum(_moved(seen, vm) for vm in _names(seen)) / (1 << 30),
        statistics.mean(sums or [0]) / (MEMORY_BYTES * len(loads)),
        agent_percent,
        load,
    )


def _lengths(load: Work) -> list[float]:
    """How long each burst lasts."""
    return [
        following.at_s - wish.at_s
        for wish, following in pairwise(load.wishes)
        if wish.mib > following.mib and wish.mib >= _BURST_MIB
    ]


def _names(seen: Seen) -> Sequence[str]:
    return sorted(seen.actual[0]) if seen.actual else ()


def _turns(targets: Sequence[int]) -> int:
    ways = [after > before for before, after in pairwise(targets) if after != before]
    return sum(one != other for one, other in pairwise(ways))


def _moved(seen: Seen, vm: str) -> int:
    sizes = [look[vm] for look in seen.actual if vm in look]
    return sum(abs(after - before) for before, after in pairwise(sizes))
