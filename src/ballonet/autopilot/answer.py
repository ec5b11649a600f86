"""The newest answer of a VM's guest, and what all of them have shown.

Time is only the law's own: an answer is new when it, or its mark, differs from the one before,
whatever time the mark says.  So clocks that jump make nothing old or young.
Units: bytes (logical size), seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ballonet.autopilot.constants import Constants
from ballonet.autopilot.distress import Answers
from ballonet.autopilot.estimation import Estimate, estimate
from ballonet.autopilot.moment import Moment
from ballonet.autopilot.reading import Reading, Refusal, read
from ballonet.autopilot.sample import VmSample
from ballonet.autopilot.sizes import Sizes
from ballonet.autopilot.usage import Kept

__all__ = ["NO_ANSWER", "Answer", "follow_answer"]

_NEVER_S: Final = float("-inf")
#: Between two answers: rates over less are noise, and over more they say nothing of now.
_BETWEEN_LEAST_S: Final = 0.5
_BETWEEN_MOST_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one guest."""

    estimate: Estimate | None = None  #: what all answers that could be believed have shown
    at_s: float = _NEVER_S  #: when the newest of these was given, by the law's clock
    kept_bytes: int = 0  #: what the VM kept then
    held_bytes: int | None = None  #: what the host held for it
    mark: float | None = None  #: of the newest answer, believed or not
    said: Mapping[str, int] = field(default_factory=dict)
    refusal: Refusal | None = None  #: why that one cannot be
    is_new_kernel: bool = False  #: that one is the first of another kernel
    looked_s: float = _NEVER_S  #: when there could have been one, the last time


#: Before the first.
NO_ANSWER: Final = Answer()


def follow_answer(before: Answer, sizes: Sizes, sample: VmSample, moment: Moment) -> Answer:
    """What is known after one more look at what the guest says."""
    if sample.no_answer:
        return replace(before, is_new_kernel=False) if before.is_new_kernel else before
    is_first = before.mark is None
    is_old = sample.statistics_id == before.mark and sample.statistics == before.said
    if not sample.statistics or (is_old and not is_first):
        return replace(before, is_new_kernel=False, looked_s=moment.now_s)
    constants = moment.constants
    most_bytes = max(sizes.looks)
    slack_bytes = constants.slack_of(sizes.memory_bytes)
    margin_bytes = constants.margin_of(sizes.memory_bytes)
    reading = read(sample, most_bytes, slack_bytes, margin_bytes)
    heard = replace(
        before,
        mark=sample.statistics_id,
        said=sample.statistics,
        refusal=reading if isinstance(reading, Refusal) else None,
        is_new_kernel=False,
        looked_s=moment.now_s,
    )
    if isinstance(reading, Refusal):
        return heard
    # It is no older than it says, nor, where the one before was seen, than that look.
    age_s = max(0.0, sample.statistics_age_s or 0.0)
    at_s = max(moment.now_s - age_s, _NEVER_S if is_first else before.looked_s)
    return _believe(heard, sizes, reading, at_s, constants)


def _believe(
    before: Answer, sizes: Sizes, reading: Reading, at_s: float, constants: Constants
) -> Answer:
    """What one more answer shows that can be believed."""
    has_begun = _fell(before.estimate, reading)
    last = None if has_begun else before.estimate
    answers = Answers(
        last.reading if last else None,
        reading,
        max(_BETWEEN_LEAST_S, min(at_s - before.at_s, _BETWEEN_MOST_S)),
        sizes.memory_bytes,
        max(0, before.kept_bytes - sizes.actual_bytes),
        _touched(before, sizes, reading, constants.slack_of(sizes.memory_bytes)),
    )
    kept = Kept(min(sizes.looks), max(sizes.looks))
    return replace(
        before,
        estimate=estimate(last, answers, kept, constants),
        at_s=at_s,
        kept_bytes=sizes.actual_bytes,
        held_bytes=sizes.held_bytes,
        is_new_kernel=has_begun,
    )


def _touched(before: Answer, sizes: Sizes, reading: Reading, slack_bytes: int) -> int:
    """What the guest has touched besides its cache, if that is more than before; else 0.

    A kernel takes what it has touched before sooner than what it has not, so it used as much, be it
    only for a moment between two answers.
    """
    if before.held_bytes is None or sizes.held_bytes is None or before.estimate is None:
        return 0
    was_bytes = before.held_bytes - (before.estimate.reading.caches_bytes or 0)
    now_bytes = sizes.held_bytes - (reading.caches_bytes or 0)
    return now_bytes if now_bytes > was_bytes + slack_bytes else 0


def _fell(known: Estimate | None, reading: Reading) -> bool:
    """Some counter is lower than it was: another kernel has begun."""
    if known is None:
        return False
    was = known.reading.counters
    return any(value < was.get(name, 0) for name, value in reading.counters.items())
