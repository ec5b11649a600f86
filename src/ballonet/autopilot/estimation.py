"""What one guest needs, from what it says: one answer is enough, more of them show more.

Units: bytes (logical size), seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ballonet.autopilot.cache_floor import next_cache_floor
from ballonet.autopilot.constants import Constants
from ballonet.autopilot.distress import Answers, Signal, signals_of
from ballonet.autopilot.limit import NO_HIT, Hit, UseChange, follow_hit
from ballonet.autopilot.reading import Reading
from ballonet.autopilot.usage import Kept, Usage, use

__all__ = ["Estimate", "Need", "estimate", "need_of"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is known of one guest after its newest answer."""

    usage: Usage
    reading: Reading
    peak_bytes: int  #: what it used lately
    trailing_bytes: int  #: its use, as it was a few seconds ago
    hit: Hit  #: what it wanted when it ran into its limit
    cache_floor_bytes: int
    signals: Mapping[Signal, int] = field(default_factory=dict)  #: what it suffers from
    rates: Mapping[Signal, int] = field(default_factory=dict)  #: too high in this answer
    is_censored: bool = False  #: it is at its limit, and wants more than it can show

    @property
    def used_bytes(self) -> int:
        """What it uses, of what it keeps."""
        return self.usage.used_bytes

    @property
    def rise_bytes(self) -> int:
        """By how much its use has risen of late: it is expected to rise by as much again."""
        return max(0, self.used_bytes - self.trailing_bytes)

    @property
    def is_distressed(self) -> bool:
        """It suffers."""
        return bool(self.signals)


@dataclass(frozen=True, slots=True)
class Need:
    """Up to where each kind of need goes; none is below the one before it."""

    use_bytes: int  #: what it uses now
    growth_bytes: int  #: ... and will use before the next look
    peak_bytes: int  #: ... and may use again, as it did lately
    cache_bytes: int  #: ... and its cache


def estimate(
    before: Estimate | None, answers: Answers, kept: Kept, constants: Constants
) -> Estimate:
    """What is known after one more answer."""
    slack_bytes = constants.slack_of(answers.memory_bytes)
    usage = use(before.usage if before else None, answers.now, kept, slack_bytes)
    used_bytes, seconds = usage.used_bytes, answers.seconds
    peak_bytes, trailing_bytes, hit, floor_bytes = used_bytes, used_bytes, NO_HIT, 0
    if before is not None:
        floor_bytes = before.cache_floor_bytes
        peak_bytes = _fading(before.peak_bytes, used_bytes, seconds, constants.peak_decay_s)
        peak_bytes = max(peak_bytes, used_bytes, answers.touched_bytes)
        trailing_bytes = _fading(before.trailing_bytes, used_bytes, seconds, constants.rise_s)
        change = UseChange(before.used_bytes, before.rise_bytes, used_bytes)
        hit = follow_hit(before.hit, answers, change, kept.most_bytes, constants)
        peak_bytes = max(peak_bytes, hit.wanted_bytes)
    signals, rates = signals_of(answers, before.rates if before else {}, constants)
    if hit.is_new and hit.is_sure:
        signals |= {Signal.OOM_KILL: max(1, signals.get(Signal.OOM_KILL, 0))}
    pad_bytes = constants.pad_of(answers.memory_bytes)
    return Estimate(
        usage,
        answers.now,
        peak_bytes,
        min(trailing_bytes, used_bytes),
        hit,
        next_cache_floor(floor_bytes, used_bytes, answers, constants),
        signals,
        rates,
        bool(signals) or answers.now.available_bytes < pad_bytes // 2,
    )


def _fading(was_bytes: int, now_bytes: int, seconds: float, time_s: float) -> int:
    """From what it was to what it is: after `time_s` one e-th of the difference is left."""
    return now_bytes + int((was_bytes - now_bytes) * math.exp(-seconds / time_s))


def need_of(known: Estimate, memory_bytes: int, least_bytes: int, constants: Constants) -> Need:
    """Its needs as sizes, between its floor and all its memory.

    The first has no foresight in it: launch ramps would make every first claim as large as a fair
    part, and the law an equal split.
    """
    used_bytes = known.used_bytes
    censored_bytes = 0
    if known.is_censored:
        censored_bytes = int(
            max(
                memory_bytes * constants.censored_share_of_memory,
                used_bytes * constants.censored_share_of_use,
            )
        )
    rise_bytes = min(
        int(known.rise_bytes * constants.rise_times), int(memory_bytes * constants.rise_most_share)
    )
    margin_bytes = constants.margin_of(memory_bytes)
    head_bytes = max(margin_bytes, int(known.peak_bytes * constants.peak_head_share))
    needed_bytes = used_bytes + constants.pad_of(memory_bytes)
    use_bytes = max(needed_bytes + censored_bytes, known.hit.wanted_bytes * known.hit.is_sure)
    growth_bytes = max(use_bytes, needed_bytes + rise_bytes, known.hit.wanted_bytes)
    peak_bytes = max(growth_bytes, known.peak_bytes + head_bytes)
    cache_bytes = max(peak_bytes, known.cache_floor_bytes)
    sizes = (use_bytes, growth_bytes, peak_bytes, cache_bytes)
    return Need(*(min(max(size, least_bytes), memory_bytes) for size in sizes))
