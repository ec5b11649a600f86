"""How much a VM has, keeps and was asked to keep, from look to look.

Most VMMs do not tell what was asked for last, so that is remembered; and seen to be wrong, where
somebody else has asked since.
Units: bytes (logical size), seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ballonet.autopilot.budget import Holding
from ballonet.autopilot.moment import Moment
from ballonet.autopilot.sample import VmSample

__all__ = ["Sizes", "follow_sizes"]

#: Looks that an answer may be of.
_LOOKS: Final = 3


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one VM; without a look nothing is known."""

    memory_bytes: int = 0  #: all it has
    actual_bytes: int = 0  #: what it keeps
    target_bytes: int = 0  #: what it was asked to keep last
    held_bytes: int | None = None  #: what the host holds for it
    looks: tuple[int, ...] = ()  #: what it kept at the last of them
    behind_since_s: float | None = None  #: since then it does not take what it was given
    self_deflated_bytes: int = 0  #: what its kernel took out of the balloon since the last look

    @property
    def holding(self) -> Holding:
        """What it is to the host."""
        return Holding(self.actual_bytes, self.target_bytes, self.held_bytes)

    @property
    def pending_bytes(self) -> int:
        """What it was asked for and has not given yet."""
        return max(0, self.actual_bytes - self.target_bytes)


def follow_sizes(before: Sizes, sample: VmSample, moment: Moment) -> Sizes:
    """What is known after one more look."""
    memory_bytes = sample.memory_bytes or before.memory_bytes
    actual_bytes = sample.actual_bytes
    if actual_bytes is None and before.looks:
        actual_bytes = before.actual_bytes
    if memory_bytes <= 0 or actual_bytes is None:
        return before
    actual_bytes = min(max(0, actual_bytes), memory_bytes)
    target_bytes, behind_since_s = before.target_bytes, None
    if sample.target_bytes is not None:
        target_bytes = min(max(0, sample.target_bytes), memory_bytes)
    elif moment.is_dry_run or not before.looks:
        target_bytes = actual_bytes
    else:
        target_bytes, behind_since_s = _real_target(before, sample, actual_bytes, moment)
    risen_bytes = actual_bytes - max(before.actual_bytes, target_bytes)
    has_deflated = bool(before.looks) and risen_bytes > moment.constants.slack_of(memory_bytes)
    return Sizes(
        memory_bytes,
        actual_bytes,
        target_bytes,
        sample.held_bytes,
        (*before.looks, actual_bytes)[-_LOOKS:],
        behind_since_s,
        risen_bytes if has_deflated else 0,
    )


def _real_target(
    before: Sizes, sample: VmSample, actual_bytes: int, moment: Moment
) -> tuple[int, float | None]:
    """What it was asked for, unless it shows that somebody else has asked since.

    One that cannot take memory out of its balloon by itself and has more than before was given it,
    or has another kernel; one that does not take what it was given was asked for it back.
    """
    target_bytes = before.target_bytes
    slack_bytes = moment.constants.slack_of(before.memory_bytes)
    has_risen = actual_bytes > max(before.actual_bytes, target_bytes) + slack_bytes
    if has_risen and sample.deflates_on_oom is False:
        return actual_bytes, None
    if actual_bytes >= target_bytes - slack_bytes or actual_bytes > before.actual_bytes:
        return target_bytes, None
    since_s = moment.now_s if before.behind_since_s is None else before.behind_since_s
    if moment.now_s - since_s >= moment.constants.stuck_s:
        return actual_bytes, None
    return target_bytes, since_s
