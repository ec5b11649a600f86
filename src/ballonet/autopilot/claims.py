"""From what is known of every VM to what it asks for, and how little it keeps.

Units: bytes (logical size), seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ballonet.autopilot.allocation import Claim
from ballonet.autopilot.budget import Budget
from ballonet.autopilot.constants import Constants
from ballonet.autopilot.estimation import Need, need_of
from ballonet.autopilot.moment import Moment
from ballonet.autopilot.record import VmRecord
from ballonet.autopilot.settings import Mode, Settings
from ballonet.autopilot.vm_state import MAY_GET, MAY_GIVE, VmState

__all__ = ["TIERS", "Standing", "budgets_of", "claim_of", "fair_parts", "pool_of", "standing_of"]

#: In the order in which they are filled; the last is surplus.
TIERS = ("use", "growth", "peak", "cache", "surplus")


@dataclass(frozen=True, slots=True)
class Standing:
    """One VM in this round."""

    record: VmRecord
    least_bytes: int  #: its floor
    weight: int
    need: Need
    most_bytes: int  #: up to here it gets what nobody needs

    @property
    def may_touch_bytes(self) -> int:
        """Without asking."""
        return self.record.holding.may_touch_bytes


def fair_parts(
    records: Iterable[VmRecord], budget_bytes: int, settings: Settings
) -> dict[str, int]:
    """Each VM's floor and, of what the floors leave, a part by weight."""
    policies = {one.vm: settings.policy_of(one.vm) for one in records}
    leasts = {one.vm: policies[one.vm].least_of(one.memory_bytes) for one in records}
    spare_bytes = max(0, budget_bytes - sum(leasts.values()))
    weights = sum(one.weight for one in policies.values())
    return {vm: leasts[vm] + spare_bytes * policies[vm].weight // weights for vm in leasts}


def standing_of(record: VmRecord, fair_bytes: int, settings: Settings, moment: Moment) -> Standing:
    """What this VM needs, as far as that is known and anything can be done about it."""
    policy = settings.policy_of(record.vm)
    least_bytes = policy.least_of(record.memory_bytes)
    need = _need(record, least_bytes, fair_bytes, moment)
    lends = settings.mode is Mode.RETURN and record.state in MAY_GET
    most_bytes = record.memory_bytes if lends else need.cache_bytes
    return Standing(record, least_bytes, policy.weight, need, most_bytes)


def _need(record: VmRecord, least_bytes: int, fair_bytes: int, moment: Moment) -> Need:
    has_bytes = max(least_bytes, record.holding.may_touch_bytes)
    if record.state not in MAY_GET:
        return Need(has_bytes, has_bytes, has_bytes, has_bytes)
    if record.state is VmState.STALE or record.estimate is None:
        silent_s = moment.now_s - record.answer.at_s
        drifts = record.state is VmState.STALE and silent_s > moment.constants.stale_drift_s
        wants_bytes = min(max(has_bytes, fair_bytes if drifts else 0), record.memory_bytes)
        return Need(wants_bytes, wants_bytes, wants_bytes, wants_bytes)
    return need_of(record.estimate, record.memory_bytes, least_bytes, moment.constants)


def claim_of(standing: Standing) -> Claim:
    """A VM that nothing may be taken from keeps at least what it may touch.

    So does one that has failed, until a probe of it succeeds: were it thought to give what it does
    not, its neighbours would swing (F21).
    """
    record, need = standing.record, standing.need
    least_bytes = standing.least_bytes
    if record.state not in MAY_GIVE or record.progress.failures:
        least_bytes = max(least_bytes, standing.may_touch_bytes)
    tiers = (
        need.use_bytes,
        need.growth_bytes,
        need.peak_bytes,
        need.cache_bytes,
        standing.most_bytes,
    )
    return Claim(record.vm, standing.least_bytes, least_bytes, tiers, standing.weight)


def pool_of(budget: Budget, constants: Constants) -> int:
    """What is kept free of the budget, for as long as nobody needs it."""
    return int(max(0, budget.budget_bytes) * constants.pool_share)


def budgets_of(budget: Budget, constants: Constants) -> tuple[int, ...]:
    """What may be spent up to each tier: the pool is for use and its growth alone."""
    rest_bytes = budget.budget_bytes - pool_of(budget, constants)
    of_now = TIERS.index("growth") + 1
    return (budget.budget_bytes,) * of_now + (rest_bytes,) * (len(TIERS) - of_now)
