"""What this host's agent remembers of each machine, as rounds of ours that were before the first.

Units: bytes, seconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ballonet.agent.commands import HISTORY_COMMAND
from ballonet.agent.past import EVERY_S
from ballonet.cli.agent_monitor import ask_agent
from ballonet.vms.history import ROUNDS_MOST, Point

__all__ = ["Moment", "as_rounds", "ask_past", "points_of"]

#: What is written down later than that after the last was not known between.
_GAP_S: Final = 2.5 * EVERY_S


class Moment(NamedTuple):
    """A point, and its time of day."""

    at_s: float
    point: Point


async def ask_past(interval_s: float) -> Mapping[str, Sequence[Point]]:
    """By `kind:name`, a point for each interval up to now; nothing where no agent remembers."""
    seconds = max(1, round(ROUNDS_MOST * interval_s))
    told = await ask_agent(HISTORY_COMMAND, seconds=seconds)
    try:
        return {
            vm: as_rounds(points_of(told["keys"], rows), interval_s, time.time(), ROUNDS_MOST)
            for vm, rows in told["vms"].items()
        }
    except (KeyError, TypeError, ValueError, IndexError):
        return {}  # there is none, or another one than ours


def points_of(keys: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Moment]:
    """What the agent has answered. Raises: ValueError, IndexError, if it is something else."""
    columns = [keys.index(key) for key in ("actual", "available", "held")]
    at = keys.index("at")
    return [Moment(row[at], Point(*(row[one] for one in columns))) for row in rows]


def as_rounds(
    moments: Sequence[Moment], interval_s: float, now_s: float, count: int
) -> list[Point]:
    """What was known at so many moments up to now, an interval apart; the oldest first."""
    points: list[Point] = []
    left = list(moments)
    for number in reversed(range(count)):
        at_s = now_s - number * interval_s
        while len(left) > 1 and left[1].at_s <= at_s:
            left.pop(0)
        is_known = bool(left) and left[0].at_s <= at_s < left[0].at_s + max(_GAP_S, interval_s)
        points.append(left[0].point if is_known else Point())
    return points
