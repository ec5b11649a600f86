"""What a guest wanted that ran into its limit, and had processes killed there.

Linux 6.12 tells of its kills.  Of an older kernel they are guessed: use that rose as if it would
soon be all there was, or a guest that has just touched the last of it, shows much less instead.  A
program that ends by itself can look like that, so the first guess claims a quarter more than the
guest had, and only after the use of all is served; a kill that was told, or a second guess while
the first is remembered, claims twice of it, first of all.
Units: bytes (logical size), seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from ballonet.autopilot.constants import Constants
from ballonet.autopilot.distress import Answers, grown

__all__ = ["NO_HIT", "Hit", "UseChange", "follow_hit"]


@dataclass(frozen=True, slots=True)
class Hit:
    """What is remembered; it fades."""

    wanted_bytes: int = 0
    is_sure: bool = False
    is_new: bool = False  #: it happened between the last two answers


class UseChange(NamedTuple):
    """From one answer to the next."""

    was_bytes: int
    rise_bytes: int  #: by how much it had risen then
    now_bytes: int


#: It never happened.
NO_HIT: Final = Hit()


def follow_hit(
    before: Hit, answers: Answers, change: UseChange, kept_bytes: int, constants: Constants
) -> Hit:
    """What is remembered after one more answer of a VM that kept `kept_bytes`."""
    fading = math.exp(-answers.seconds / constants.hit_decay_s)
    wanted_bytes = int(before.wanted_bytes * fading)
    remembers = wanted_bytes > change.now_bytes
    killed = grown(answers).get("oom_kill")
    if killed is None:
        has_hit = _seems_killed(answers, change, kept_bytes, constants)
    else:
        has_hit = killed > 0
    if not has_hit:
        return Hit(wanted_bytes, before.is_sure) if remembers else NO_HIT
    is_sure = bool(killed) or remembers
    times = constants.hit_times if is_sure else constants.hit_guess_times
    return Hit(max(wanted_bytes, int(kept_bytes * times)), is_sure, is_new=True)


def _seems_killed(
    answers: Answers, change: UseChange, kept_bytes: int, constants: Constants
) -> bool:
    if answers.now.counters.get("swap_out"):
        return False  # it has swap: then use falls for other reasons
    if change.was_bytes + change.rise_bytes >= kept_bytes:
        return change.was_bytes - change.now_bytes > change.rise_bytes > 0
    pad_bytes = constants.pad_of(answers.memory_bytes)
    has_touched_all = answers.touched_bytes >= kept_bytes - pad_bytes // 2
    return has_touched_all and answers.touched_bytes - change.now_bytes > pad_bytes
