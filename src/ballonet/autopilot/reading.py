"""One answer of a guest, as far as it can be believed.

A guest is nobody's friend: what cannot be is refused as a whole, and the VM is then as one whose
statistics have stopped.  What can be and is a lie costs the liar: see docs/autopilot.md.
Units: bytes; counters as virtio.stats.STATS has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ballonet.autopilot.sample import VmSample

__all__ = ["COUNTERS", "Reading", "Refusal", "read"]

#: What only grows while a kernel lives.
COUNTERS: Final = (
    "swap_in",
    "swap_out",
    "majflt",
    "oom_kill",
    "alloc_stall",
    "async_reclaim",
    "direct_reclaim",
    "refault",
)
_SIZES: Final = ("avail", "memfree", "memtot", "caches")


class Refusal(Enum):
    """Why an answer is of no use."""

    EMPTY = "it does not say how much memory is available"
    NEGATIVE = "it has a negative number"
    TOO_LITTLE = "less is available than it has never touched"
    TOO_MUCH = "more is available, or in use, than the guest has"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a guest says."""

    available_bytes: int
    total_bytes: int | None = None  #: of its kernel: MemTotal
    free_bytes: int | None = None
    caches_bytes: int | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    stall_share: float | None = None


def read(
    sample: VmSample, most_bytes: int, slack_bytes: int, margin_bytes: int
) -> Reading | Refusal:
    """Check what a guest says that kept no more than `most_bytes` when it said it.

    It cannot use what the host does not hold for it.  `margin_bytes` is what it may have given
    since, or may have kept from its own kernel.
    """
    said = sample.statistics
    if any(said.get(name, 0) < 0 for name in (*_SIZES, *COUNTERS)):
        return Refusal.NEGATIVE
    available_bytes = said.get("avail")
    if available_bytes is None:
        if "memfree" not in said:
            return Refusal.EMPTY
        available_bytes = said["memfree"] + said.get("caches", 0)  # Windows sends no more
    total_bytes = said.get("memtot")
    memory_bytes = sample.memory_bytes or most_bytes
    if (
        available_bytes > most_bytes + slack_bytes
        or (total_bytes is not None and not available_bytes <= total_bytes + slack_bytes)
        or (total_bytes is not None and total_bytes > memory_bytes + slack_bytes)
        or said.get("memfree", 0) > most_bytes + slack_bytes
    ):
        return Refusal.TOO_MUCH
    if sample.held_bytes is not None and sample.actual_bytes is not None:
        hidden_bytes = max(0, sample.actual_bytes - (total_bytes or sample.actual_bytes))
        untouched_bytes = sample.actual_bytes - sample.held_bytes - hidden_bytes
        if available_bytes + margin_bytes < untouched_bytes:
            return Refusal.TOO_LITTLE
    return Reading(
        min(available_bytes, most_bytes),
        total_bytes,
        said.get("memfree"),
        said.get("caches"),
        {name: said[name] for name in COUNTERS if name in said},
        sample.stall_share,
    )
