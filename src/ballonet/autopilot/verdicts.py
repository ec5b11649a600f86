"""Which reason stands behind what was decided for a VM, and with which figures.

Units: in the names of the figures.
"""

from __future__ import annotations

from collections.abc import Mapping

from ballonet.autopilot.actuation import Plan
from ballonet.autopilot.claims import Standing
from ballonet.autopilot.explanation import Figure, Reason, Verdict, say_signals
from ballonet.autopilot.moment import Moment
from ballonet.autopilot.vm_state import VmState

__all__ = ["verdict_of"]


def verdict_of(
    one: Standing, allotted: Mapping[str, int], decided: Plan, moment: Moment
) -> Verdict:
    """What was decided for this VM."""
    record = one.record
    from_bytes = record.target_bytes
    to_bytes = decided.targets.get(record.vm, from_bytes)
    if to_bytes > from_bytes:
        reason = _why_more(one, to_bytes)
    elif to_bytes < from_bytes:
        reason = _why_less(decided)
    else:
        reason = _why_same(one, decided, moment)
    figures = _figures(one, allotted, decided, moment)
    return Verdict(record.vm, moment.now_s, from_bytes, to_bytes, record.state, reason, figures)


def _why_more(one: Standing, to_bytes: int) -> Reason:
    record, need = one.record, one.need
    if record.state is VmState.STUCK and to_bytes <= one.may_touch_bytes:
        return Reason.STOP
    if record.state is VmState.BOOT and to_bytes <= one.may_touch_bytes:
        return Reason.BOOTING
    if record.is_distressed:
        return Reason.SUFFERS
    if to_bytes <= one.may_touch_bytes:
        return Reason.KEEP
    has_hit = record.estimate is not None and record.estimate.hit.wanted_bytes >= need.use_bytes
    for limit_bytes, reason in (
        (need.use_bytes, Reason.HIT if has_hit else Reason.USE),
        (need.growth_bytes, Reason.GROWTH),
        (need.peak_bytes, Reason.PEAK),
        (need.cache_bytes, Reason.CACHE),
    ):
        if record.target_bytes < limit_bytes and record.estimate is not None:
            return reason
    return Reason.SURPLUS


def _why_less(decided: Plan) -> Reason:
    if decided.owed_bytes:
        return Reason.FOR_HOST
    if sum(decided.lack):
        return Reason.FOR_OTHERS
    return Reason.FOR_POOL if decided.refill_bytes else Reason.TO_HOST


def _why_same(one: Standing, decided: Plan, moment: Moment) -> Reason:
    record = one.record
    by_state = {
        VmState.LOST: Reason.LOST,
        VmState.EXCLUDED: Reason.EXCLUDED,
        VmState.STUCK: Reason.STUCK,
        VmState.STALE: Reason.STALE,
        VmState.UNKNOWN: Reason.UNKNOWN,
    }
    if record.answer.refusal is not None:
        return Reason.REFUSED
    if record.state in by_state:
        return by_state[record.state]
    if record.vm in decided.lacks:
        return Reason.WAITS
    if record.sizes.pending_bytes > moment.constants.slack_of(record.memory_bytes):
        return Reason.GIVING
    if record.state is VmState.PRESSURE:
        return Reason.SUFFERED
    is_wanted = sum(decided.lack) + decided.owed_bytes > 0
    rests = is_wanted and record.vm in decided.waits_for_dwell
    return Reason.RESTS if rests else Reason.ENOUGH


def _figures(
    one: Standing, allotted: Mapping[str, int], decided: Plan, moment: Moment
) -> dict[str, Figure]:
    """Everything that any of the reasons names, and what a reader wants to see beside it."""
    record, need, now_s = one.record, one.need, moment.now_s
    known = record.estimate
    lack_bytes = decided.lacks.get(record.vm, sum(decided.lack) + decided.owed_bytes)
    return {
        "used_bytes": known.used_bytes if known is not None else 0,
        "peak_use_bytes": known.peak_bytes if known is not None else 0,
        "rise_bytes": known.rise_bytes if known is not None else 0,
        "use_bytes": need.use_bytes,
        "growth_bytes": need.growth_bytes,
        "cache_bytes": need.cache_bytes,
        "need_bytes": need.cache_bytes,
        "least_bytes": one.least_bytes,
        "allotted_bytes": allotted[record.vm],
        "actual_bytes": record.sizes.actual_bytes,
        "pending_bytes": record.sizes.pending_bytes,
        "lack_bytes": lack_bytes,
        "owed_bytes": decided.owed_bytes,
        "signals": say_signals(record.signals),
        "stuck_s": moment.constants.stuck_s,
        "retry_s": max(0.0, record.progress.retry_at_s - now_s),
        "raised_ago_s": now_s - record.asked.raised_s,
        "suffered_ago_s": now_s - record.suffered_s,
        "silent_s": now_s - record.answer.at_s,
        "refusal": record.answer.refusal.value if record.answer.refusal is not None else "",
        "note": record.note,
    }
