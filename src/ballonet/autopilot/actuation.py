"""From what every VM should keep to what each is asked for now.

First grants from what is free, then reclaims for what they could not cover.
Targets are absolute sizes.
Units: bytes (logical size), seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ballonet.autopilot.budget import Budget
from ballonet.autopilot.claims import Standing, pool_of
from ballonet.autopilot.grants import Lack, grants, lacks_of
from ballonet.autopilot.moment import Moment
from ballonet.autopilot.reclaims import Reclaims
from ballonet.autopilot.settings import Mode
from ballonet.autopilot.vm_state import MAY_GIVE

__all__ = ["Plan", "plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be asked for."""

    targets: Mapping[str, int]  #: of every VM whose target changes
    lacks: Mapping[str, int]  #: what each VM should have and cannot get yet
    lack: Lack
    owed_bytes: int  #: what VMs have beyond the budget
    refill_bytes: int  #: what the pool lacks
    waits_for_dwell: frozenset[str]  #: could give, and has just got something


def plan(
    standings: Sequence[Standing],
    allotted: Mapping[str, int],
    budget: Budget,
    mode: Mode,
    moment: Moment,
) -> Plan:
    """Grants, then reclaims for what they could not cover."""
    targets = grants(standings, allotted, max(0, budget.free_bytes), moment)
    lacks, lack = lacks_of(standings, allotted, targets, moment)
    owed_bytes = max(0, -budget.free_bytes)
    refill_bytes = _refill(standings, targets, budget, moment)
    is_dry = budget.free_bytes < moment.constants.pool_least_share * pool_of(
        budget, moment.constants
    )
    at_once_bytes = lack.urgent_bytes + owed_bytes + (refill_bytes if is_dry else 0)
    calm_bytes = lack.calm_bytes + (0 if is_dry else refill_bytes)
    reclaims = Reclaims(moment, at_once_bytes, calm_bytes, budget.state)
    pending_bytes = sum(
        one.record.sizes.pending_bytes for one in standings if one.record.state in MAY_GIVE
    )
    reclaims.take_account_of(pending_bytes)
    donors = [one for one in standings if one.record.vm not in targets]
    targets |= reclaims.of(donors, allotted)
    if mode is Mode.HOLD:
        rest = [one for one in donors if one.record.vm not in targets]
        targets |= reclaims.held_back(rest, allotted)
    return Plan(targets, lacks, lack, owed_bytes, refill_bytes, frozenset(reclaims.dwelling))


def _refill(
    standings: Sequence[Standing], targets: Mapping[str, int], budget: Budget, moment: Moment
) -> int:
    """What the pool lacks, once half of it is gone."""
    granted_bytes = sum(
        max(0, targets.get(one.record.vm, 0) - one.may_touch_bytes) for one in standings
    )
    left_bytes = max(0, budget.free_bytes - granted_bytes)
    pool_bytes = pool_of(budget, moment.constants)
    return pool_bytes - left_bytes if left_bytes < pool_bytes // 2 else 0
