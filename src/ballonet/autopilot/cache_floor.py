"""How much memory a guest should have for its cache, which all counts as available.

Three kinds of guests, by the statistics they send:

- the kernel tells what it reclaims (Linux 6.12), or somebody tells refaults: as long as nothing is
  reclaimed beside what the balloon takes, no cache is missing.  What it had when that began, and a
  step, is its lesson; a lesson is half forgotten after half an hour.
- the kernel tells its cache only: a half of it, as it was during the last minutes.
- it tells neither: nothing is known.

This is the last tier before surplus, so a wrong lesson takes memory that nobody else needs.
Units: bytes (logical size), seconds.
"""

from __future__ import annotations

from ballonet.autopilot.constants import Constants
from ballonet.autopilot.distress import Answers, grown

__all__ = ["next_cache_floor"]


def next_cache_floor(
    before_bytes: int, used_bytes: int, answers: Answers, constants: Constants
) -> int:
    """The floor after one more answer; `before_bytes` is the one before it."""
    caches_bytes = answers.now.caches_bytes or 0
    gained = grown(answers)
    told = {"async_reclaim", "direct_reclaim", "refault"} & answers.now.counters.keys()
    if not told:
        seen_bytes = used_bytes + int(caches_bytes * constants.blind_cache_share)
        return _forget(before_bytes, seen_bytes, answers.seconds, constants.peak_decay_s)
    reclaimed_bytes = gained.get("async_reclaim", 0) + gained.get("direct_reclaim", 0)
    own_free = max(0, reclaimed_bytes - answers.taken_bytes)
    recycled_per_s = own_free / answers.seconds
    refaults_per_s = gained.get("refault", 0) / answers.seconds
    is_short = (
        refaults_per_s >= constants.refaults_per_s
        if "refault" in told
        else recycled_per_s >= answers.memory_bytes * constants.recycled_share_per_s
    )
    lesson_bytes = used_bytes
    if is_short:
        step_bytes = int(answers.memory_bytes * constants.cache_step_share)
        lesson_bytes = used_bytes + caches_bytes + step_bytes
    return _forget(before_bytes, lesson_bytes, answers.seconds, constants.cache_half_life_s / 0.69)


def _forget(before_bytes: int, seen_bytes: int, seconds: float, time_s: float) -> int:
    """What was known, the part above what is seen fading within `time_s` to one e-th."""
    above_bytes = max(0, before_bytes - seen_bytes)
    return seen_bytes + int(above_bytes * 2.718281828 ** (-seconds / time_s))
