"""One step of the autopilot: what was known and a round of looks, to targets with their reasons.

    state, round, settings -> follow each VM -> budget -> claims -> allocation -> actuation
                           -> state, a verdict for every VM, figures, alarms

A value in and a value out: no clock, no file, no chance.  The same rounds give the same verdicts,
in whichever order the VMs are named.
Units: bytes (logical size), seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ballonet.autopilot.actuation import Plan, plan
from ballonet.autopilot.alarms import Alarm, alarms_of
from ballonet.autopilot.allocation import allocate
from ballonet.autopilot.budget import Budget, HostRecord, budget_of, follow_host
from ballonet.autopilot.claims import Standing, budgets_of, claim_of, fair_parts, standing_of
from ballonet.autopilot.explanation import Verdict
from ballonet.autopilot.moment import Moment
from ballonet.autopilot.progress import begin_progress
from ballonet.autopilot.record import Asked, VmRecord, follow
from ballonet.autopilot.sample import Round
from ballonet.autopilot.settings import Settings
from ballonet.autopilot.verdicts import verdict_of

__all__ = ["FIRST", "LawState", "Step", "not_delivered", "step", "steps"]


@dataclass(frozen=True, slots=True)
class LawState:
    """What is remembered from one round to the next."""

    at_s: float | None = None
    host: HostRecord | None = None
    vms: Mapping[str, VmRecord] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """What one round has led to."""

    state: LawState
    verdicts: tuple[Verdict, ...]  #: of every VM whose sizes are known, by name
    alarms: tuple[Alarm, ...]
    budget: Budget
    plan: Plan
    standings: Mapping[str, Standing]
    allotted: Mapping[str, int]  #: what each VM should keep once all is done
    next_look_s: float  #: how soon to look again

    @property
    def changes(self) -> tuple[Verdict, ...]:
        """What is to be done."""
        return tuple(one for one in self.verdicts if one.is_change)


#: Nothing is known.
FIRST: Final = LawState()


def step(state: LawState, seen: Round, settings: Settings) -> Step:
    """Decide once.  A VM that is not there is gone; of two with one name the first counts."""
    now_s = seen.at_s if state.at_s is None else max(seen.at_s, state.at_s)
    moment = Moment(
        now_s, seen.period_s, state.at_s is None, settings.is_dry_run, settings.constants
    )
    records = _follow_all(state, seen, settings, moment)
    known = [one for one in records.values() if one.is_known]
    holdings = [one.holding for one in known]
    host = follow_host(state.host, seen.host, holdings, settings, now_s)
    budget = budget_of(seen.host, host, holdings, settings, seen.lease_bytes)
    fair = fair_parts(known, budget.budget_bytes, settings)
    standings = {one.vm: standing_of(one, fair[one.vm], settings, moment) for one in known}
    allotted = allocate(
        [claim_of(one) for one in standings.values()], budgets_of(budget, settings.constants)
    )
    decided = plan(list(standings.values()), allotted, budget, settings.mode, moment)
    verdicts = tuple(verdict_of(one, allotted, decided, moment) for one in standings.values())
    after = records | {
        one.vm: _after(standings[one.vm], allotted[one.vm], one, moment) for one in verdicts
    }
    return Step(
        LawState(now_s, host, after),
        verdicts,
        alarms_of(records, standings, budget),
        budget,
        decided,
        standings,
        allotted,
        _next_look(standings, decided, settings),
    )


def not_delivered(state: LawState, vm: str, target_bytes: int) -> LawState:
    """What was decided for a VM has not reached it: it was asked for `target_bytes` before that."""
    known = state.vms.get(vm)
    if known is None:
        return state
    sizes = replace(known.sizes, target_bytes=target_bytes)
    return replace(state, vms={**state.vms, vm: replace(known, sizes=sizes)})


def steps(rounds: Iterable[Round], settings: Settings) -> Iterator[Step]:
    """Decide again for rounds that were recorded, from the first on.

    With other settings than the recorded ones make it a dry run: what the VMs did then does not
    follow what is decided now.
    """
    state = FIRST
    for seen in rounds:
        last = step(state, seen, settings)
        state = last.state
        yield last


def _follow_all(
    state: LawState, seen: Round, settings: Settings, moment: Moment
) -> dict[str, VmRecord]:
    samples = {one.vm: one for one in reversed(seen.vms)}
    return {
        vm: follow(
            state.vms.get(vm),
            samples[vm],
            moment,
            is_excluded=settings.policy_of(vm).is_excluded,
        )
        for vm in sorted(samples)
    }


def _next_look(standings: Mapping[str, Standing], decided: Plan, settings: Settings) -> float:
    """Soon, where something moves: every answer saved is a burst that is met in time."""
    constants = settings.constants
    moves = bool(decided.targets or decided.lacks) or any(
        one.record.is_distressed
        or one.record.sizes.pending_bytes > constants.slack_of(one.record.memory_bytes)
        or (
            one.record.estimate is not None
            and one.record.estimate.rise_bytes > constants.pad_of(one.record.memory_bytes) // 2
        )
        for one in standings.values()
    )
    return constants.look_hurried_s if moves else constants.look_s


def _after(one: Standing, allotted_bytes: int, verdict: Verdict, moment: Moment) -> VmRecord:
    """What is remembered of a VM after it was asked; in a dry run nobody is."""
    record, asked = one.record, one.record.asked
    is_poor = allotted_bytes - one.may_touch_bytes >= 2 * moment.constants.dead_band_of(
        record.memory_bytes
    )
    poor_since_s = None
    if is_poor:
        poor_since_s = moment.now_s if asked.poor_since_s is None else asked.poor_since_s
    if not verdict.is_change or moment.is_dry_run:
        if poor_since_s == asked.poor_since_s:
            return record
        return replace(record, asked=replace(asked, poor_since_s=poor_since_s))
    rises = verdict.to_bytes > verdict.from_bytes
    turns = asked.raised_s < asked.lowered_s if rises else asked.raised_s > asked.lowered_s
    progress = record.progress
    if not rises:
        progress = begin_progress(progress, record.sizes.actual_bytes, moment.now_s)
    return replace(
        record,
        progress=progress,
        sizes=replace(record.sizes, target_bytes=verdict.to_bytes),
        asked=Asked(
            moment.now_s if rises else asked.raised_s,
            asked.lowered_s if rises else moment.now_s,
            asked.changes + turns,
            poor_since_s,
        ),
    )
