"""Whether a guest suffers for want of memory, and from what.

A rate counts when two answers in a row show it: starting a program reads as many pages from disk as
running out of memory does, but not for long.  What cannot be harmless counts at once.
Units: bytes, seconds.
Source: Linux mm/vmstat.c for what the counters count.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from ballonet.autopilot.constants import Constants
from ballonet.autopilot.reading import Reading

__all__ = ["Answers", "Signal", "grown", "signals_of"]


class Signal(Enum):
    """What a guest suffers from; the value names its figure."""

    SCARCE = "available_bytes"
    OOM_KILL = "killed_processes"
    SELF_DEFLATED = "taken_bytes"  #: its kernel took memory out of the balloon (deflate-on-oom)
    SWAP_IN = "swap_in_bytes_per_s"
    MAJOR_FAULTS = "major_faults_per_s"
    STALLS = "stalls_per_s"
    STALL_SHARE = "stall_percent"


class Answers(NamedTuple):
    """Two answers of one guest, one after the other."""

    before: Reading | None
    now: Reading
    seconds: float
    memory_bytes: int
    taken_bytes: int  #: by its balloon, meanwhile
    touched_bytes: int = 0  #: what it has touched besides its cache, if more than ever; else 0


def grown(answers: Answers) -> dict[str, int]:
    """What each counter has gained; one that fell is another kernel's, and tells nothing."""
    if answers.before is None:
        return {}
    was = answers.before.counters
    return {
        name: max(0, value - was[name])
        for name, value in answers.now.counters.items()
        if name in was
    }


def signals_of(
    answers: Answers, rates_before: Mapping[Signal, int], constants: Constants
) -> tuple[dict[Signal, int], dict[Signal, int]]:
    """What it suffers from, and the rates that are too high now. `rates_before`: of before."""
    now, found = answers.now, dict[Signal, int]()
    if now.available_bytes <= answers.memory_bytes * constants.scarce_share:
        found[Signal.SCARCE] = now.available_bytes
    gained = grown(answers)
    if gained.get("oom_kill"):
        found[Signal.OOM_KILL] = gained["oom_kill"]
    if now.stall_share is not None and now.stall_share >= constants.stall_share:
        found[Signal.STALL_SHARE] = int(now.stall_share * 100)
    rates = _rates(answers, gained, constants)
    return found | {one: rates[one] for one in rates if one in rates_before}, rates


def _rates(answers: Answers, gained: Mapping[str, int], constants: Constants) -> dict[Signal, int]:
    own_stalls = answers.taken_bytes // constants.own_stall_bytes
    per_s = {
        Signal.SWAP_IN: gained.get("swap_in", 0) / answers.seconds,
        Signal.MAJOR_FAULTS: gained.get("majflt", 0) / answers.seconds,
        Signal.STALLS: max(0, gained.get("alloc_stall", 0) - own_stalls) / answers.seconds,
    }
    limits = {
        Signal.SWAP_IN: constants.swap_in_bytes_per_s,
        Signal.MAJOR_FAULTS: constants.major_faults_per_s,
        Signal.STALLS: constants.stalls_per_s,
    }
    free_bytes = answers.now.free_bytes
    if free_bytes is not None and free_bytes > answers.memory_bytes * constants.idle_free_share:
        return {}
    return {one: int(rate) for one, rate in per_s.items() if rate >= limits[one]}
