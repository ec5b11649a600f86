"""Who gets more memory now: only from what is free, tier after tier.

What a VM may touch anyway, because it has not given it yet, costs nothing: a new target ends the
reclaim.  The goal of a grant comes from what the guest uses, never from what it keeps at the
moment, which may be on its way down (F1).
Units: bytes (logical size), seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ballonet.autopilot.allocation import Room, pour
from ballonet.autopilot.claims import Standing
from ballonet.autopilot.moment import Moment
from ballonet.autopilot.vm_state import MAY_GET, VmState

__all__ = ["Lack", "grants", "lacks_of"]


class Lack(NamedTuple):
    """What VMs should have, and the budget does not."""

    urgent_bytes: int  #: what they use, or will before the next look
    calm_bytes: int  #: what they may need


def grants(
    standings: Sequence[Standing], allotted: Mapping[str, int], free_bytes: int, moment: Moment
) -> dict[str, int]:
    """New targets above the old ones; together they cost no more than what is free."""
    wanting = [one for one in standings if _wants(one, allotted[one.record.vm], moment)]
    granted = {one.record.vm: 0 for one in wanting}
    for tier in ("use", "growth", "all"):
        rooms = {}
        for one in wanting:
            vm = one.record.vm
            start_bytes = one.may_touch_bytes + granted[vm] - one.least_bytes
            end_bytes = min(_goal(one, tier), allotted[vm]) - one.least_bytes
            rooms[vm] = Room(start_bytes, end_bytes, one.weight)
        for vm, more_bytes in pour(rooms, free_bytes).items():
            granted[vm] += more_bytes
            free_bytes -= more_bytes
    targets = {}
    for one in wanting:
        vm = one.record.vm
        target_bytes = _granted_target(one, allotted[vm], granted[vm], moment)
        if target_bytes > one.record.target_bytes:
            targets[vm] = target_bytes
    return targets


def _goal(one: Standing, tier: str) -> int:
    goals = {"use": one.need.use_bytes, "growth": one.need.growth_bytes}
    return goals.get(tier, one.record.memory_bytes)


def _wants(one: Standing, allotted_bytes: int, moment: Moment) -> bool:
    """It should have more, enough to be worth a command."""
    record, constants = one.record, moment.constants
    wanted_bytes = allotted_bytes - record.target_bytes
    if record.state not in MAY_GET or wanted_bytes <= 0:
        return False
    if record.is_distressed or record.state in {VmState.STUCK, VmState.BOOT}:
        return True
    if wanted_bytes < constants.dead_band_of(record.memory_bytes):
        return False
    is_surplus = record.target_bytes >= min(one.need.cache_bytes, allotted_bytes)
    return not (is_surplus and moment.now_s - record.asked.lowered_s < constants.dwell_s)


def _granted_target(one: Standing, allotted_bytes: int, granted_bytes: int, moment: Moment) -> int:
    """Up to what it may touch anyway for nothing; beyond that in whole steps."""
    record, step_bytes = one.record, moment.constants.target_step_bytes
    free_bytes = min(allotted_bytes, one.may_touch_bytes)
    target_bytes = min(free_bytes + granted_bytes, allotted_bytes)
    if target_bytes > one.may_touch_bytes and target_bytes != record.memory_bytes:
        target_bytes = max(target_bytes // step_bytes * step_bytes, free_bytes)
    is_worth = target_bytes - record.target_bytes >= moment.constants.dead_band_of(
        record.memory_bytes
    )
    is_forced = record.is_distressed or record.state in {VmState.STUCK, VmState.BOOT}
    return target_bytes if is_worth or is_forced else record.target_bytes


def lacks_of(
    standings: Sequence[Standing],
    allotted: Mapping[str, int],
    targets: Mapping[str, int],
    moment: Moment,
) -> tuple[dict[str, int], Lack]:
    """What was allotted and is not there; surplus counts when it has been missing for long."""
    lacks, urgent_bytes = dict[str, int](), 0
    for one in standings:
        record = one.record
        if record.state not in MAY_GET:
            continue
        has_bytes = targets.get(record.vm, max(record.target_bytes, one.may_touch_bytes))
        is_poor = (
            record.asked.poor_since_s is not None
            and moment.now_s - record.asked.poor_since_s >= moment.constants.surplus_patience_s
        )
        up_to_bytes = one.most_bytes if is_poor else one.need.cache_bytes
        lack_bytes = min(up_to_bytes, allotted[record.vm]) - has_bytes
        if lack_bytes <= 0:
            continue
        dead_band_bytes = moment.constants.dead_band_of(record.memory_bytes)
        if lack_bytes >= dead_band_bytes or record.is_distressed:
            lacks[record.vm] = lack_bytes
            urgent_bytes += max(0, min(one.need.growth_bytes, allotted[record.vm]) - has_bytes)
    return lacks, Lack(urgent_bytes, sum(lacks.values()) - urgent_bytes)
