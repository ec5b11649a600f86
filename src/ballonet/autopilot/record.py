"""What is remembered of one VM from round to round.

Units: bytes (logical size), seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ballonet.autopilot.answer import NO_ANSWER, Answer, follow_answer
from ballonet.autopilot.budget import Holding
from ballonet.autopilot.distress import Signal
from ballonet.autopilot.estimation import Estimate
from ballonet.autopilot.moment import Moment
from ballonet.autopilot.progress import Progress, follow_progress
from ballonet.autopilot.sample import VmSample
from ballonet.autopilot.sizes import Sizes, follow_sizes
from ballonet.autopilot.vm_state import VmEvent, VmState, next_state

__all__ = ["Asked", "VmRecord", "follow"]

_NEVER_S: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class Asked:
    """What it was asked, and when the last time."""

    raised_s: float = _NEVER_S  #: to keep more
    lowered_s: float = _NEVER_S
    changes: int = 0  #: of direction
    poor_since_s: float | None = None  #: since then it has less than a fair part of the surplus


@dataclass(frozen=True, slots=True)
class VmRecord:
    """One VM."""

    vm: str
    sizes: Sizes
    answer: Answer
    progress: Progress
    state: VmState = VmState.UNKNOWN
    state_since_s: float = _NEVER_S
    asked: Asked = Asked()
    signals: Mapping[Signal, int] = field(default_factory=dict)  #: what it suffers from now
    suffered_s: float = _NEVER_S  #: the last time that it did
    self_deflations: int = 0
    note: str = ""  #: why it is lost or excluded

    @property
    def is_known(self) -> bool:
        """Its sizes are."""
        return bool(self.sizes.looks)

    @property
    def memory_bytes(self) -> int:
        """All it has."""
        return self.sizes.memory_bytes

    @property
    def target_bytes(self) -> int:
        """What it was asked to keep."""
        return self.sizes.target_bytes

    @property
    def holding(self) -> Holding:
        """What it is to the host."""
        return self.sizes.holding

    @property
    def estimate(self) -> Estimate | None:
        """What its guest has shown."""
        return self.answer.estimate

    @property
    def is_distressed(self) -> bool:
        """It suffers now."""
        return bool(self.signals)


def follow(
    before: VmRecord | None, sample: VmSample, moment: Moment, *, is_excluded: bool
) -> VmRecord:
    """What is remembered after one more look."""
    is_new = before is None
    if before is None:
        prior = Progress(moment.constants.rate_prior_bytes_per_s)
        before = VmRecord(sample.vm, Sizes(), NO_ANSWER, prior)
    sizes = follow_sizes(before.sizes, sample, moment)
    if not sizes.looks:
        note = sample.no_answer or "it does not tell how much memory it has"
        return VmRecord(sample.vm, sizes, before.answer, before.progress, VmState.LOST, note=note)
    slack_bytes = moment.constants.slack_of(sizes.memory_bytes)
    is_full = sizes.actual_bytes >= sizes.memory_bytes - slack_bytes
    answer = follow_answer(before.answer, sizes, sample, moment)
    signals = _signals(sizes, answer, sample, moment)
    progress = follow_progress(
        before.progress,
        sizes.actual_bytes,
        0 if moment.is_dry_run else sizes.pending_bytes,
        moment.now_s,
        moment.constants,
        is_empty=is_full,
    )
    record = VmRecord(
        sample.vm,
        sizes,
        answer,
        progress,
        before.state,
        before.state_since_s,
        before.asked,
        signals,
        moment.now_s if signals else before.suffered_s,
        before.self_deflations + (Signal.SELF_DEFLATED in signals),
        sample.no_answer or _why_left_alone(sample, is_excluded=is_excluded),
    )
    if sample.no_answer:
        return _enter(record, VmEvent.NO_ANSWER, moment)
    if record.note:
        return _enter(record, VmEvent.LEFT_ALONE, moment)
    has_begun = answer.is_new_kernel or (is_new and is_full and not moment.is_first)
    return _enter(record, VmEvent.NEW_KERNEL if has_begun else _event(record, moment), moment)


def _why_left_alone(sample: VmSample, *, is_excluded: bool) -> str:
    if sample.in_use:
        return sample.in_use
    if sample.has_driver is False:
        return "no driver uses its balloon"
    return "an operator decided so" if is_excluded else ""


def _signals(
    sizes: Sizes, answer: Answer, sample: VmSample, moment: Moment
) -> Mapping[Signal, int]:
    """What it suffers from; a balloon that shrinks by itself is a sign of its own."""
    is_stale = moment.now_s - answer.at_s > moment.stale_s
    found = answer.estimate.signals if answer.estimate is not None and not is_stale else {}
    if sizes.self_deflated_bytes and sample.deflates_on_oom is not False:
        return {**found, Signal.SELF_DEFLATED: sizes.self_deflated_bytes}
    return found


def _event(record: VmRecord, moment: Moment) -> VmEvent:
    """What this round shows of a VM that can be reached and is nobody else's."""
    now_s, constants = moment.now_s, moment.constants
    answer, progress = record.answer, record.progress
    if answer.estimate is None or now_s - answer.at_s > moment.stale_s:
        return VmEvent.NO_STATISTICS
    if now_s - record.suffered_s <= constants.distress_rest_s:
        return VmEvent.SUFFERS
    if progress.has_given:
        return VmEvent.GAVE
    if progress.is_stuck or progress.waits_for_retry(now_s):
        return VmEvent.NO_PROGRESS
    if record.state is VmState.STUCK:
        return VmEvent.RETRY
    if record.state is VmState.BOOT and now_s - record.state_since_s >= constants.boot_s:
        return VmEvent.BOOTED
    return VmEvent.FINE if progress.is_proven else VmEvent.UNPROVEN


def _enter(record: VmRecord, event: VmEvent, moment: Moment) -> VmRecord:
    state = next_state(record.state, event)
    if state is record.state and event is not VmEvent.NEW_KERNEL:
        return record
    return replace(record, state=state, state_since_s=moment.now_s)
