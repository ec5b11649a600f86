"""How much memory a guest uses.

Theory of operation.  Use is what the guest keeps less what is available.  But the two are of two
moments, because statistics have whole seconds, and while the balloon moves the difference grows and
falls by itself: such phantom growth made 144 changes of direction out of none.  Two ways round it:

- Most drivers take the balloon out of MemTotal.  Then MemTotal less available is of one moment;
  what the kernel never counts (the gap between what the VM keeps and MemTotal) is learnt while the
  balloon stands still, and added.
- With DEFLATE_ON_OOM MemTotal stays as it is, and until it is known that it moves nothing is
  assumed.  Then use lies between two bounds, from the least and the most that the VM kept about
  that time, and what was known before is kept as far as it lies between them.

Never from MemTotal alone: of a User-Mode Linux of 384 MiB it is 10 MiB less, and counting in both
scales at once made every guest look short.
Units: bytes, counted from what the VM keeps (logical size).
"""

from __future__ import annotations

from dataclasses import dataclass

from ballonet.autopilot.reading import Reading

__all__ = ["Kept", "Usage", "use"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a VM kept about the time of an answer."""

    least_bytes: int
    most_bytes: int

    @property
    def is_still(self) -> bool:
        """The balloon did not move."""
        return self.least_bytes == self.most_bytes


@dataclass(frozen=True, slots=True)
class _Gap:
    """What the kernel does not count, seen while the balloon stood still."""

    gap_bytes: int
    kept_bytes: int  #: then


@dataclass(frozen=True, slots=True)
class Usage:
    """What is known of one guest."""

    used_bytes: int
    gap: _Gap | None = None
    total_moves: bool | None = None  #: the balloon is not in MemTotal; None: not known yet


def use(before: Usage | None, reading: Reading, kept: Kept, slack_bytes: int) -> Usage:
    """What is known after one more answer; one is enough."""
    gap = None if before is None else before.gap
    total_moves = None if before is None else before.total_moves
    if kept.is_still and reading.total_bytes is not None:
        seen = _Gap(kept.most_bytes - reading.total_bytes, kept.most_bytes)
        if gap is not None and abs(seen.kept_bytes - gap.kept_bytes) > 4 * slack_bytes:
            moved_bytes = abs(seen.kept_bytes - gap.kept_bytes)
            total_moves = abs(seen.gap_bytes - gap.gap_bytes) < moved_bytes // 2
        gap = seen
    if total_moves and gap is not None and reading.total_bytes is not None:
        used_bytes = reading.total_bytes - reading.available_bytes + gap.gap_bytes
    else:
        least_bytes = kept.least_bytes - reading.available_bytes
        most_bytes = kept.most_bytes - reading.available_bytes
        used_bytes = most_bytes if before is None else before.used_bytes
        used_bytes = min(max(used_bytes, least_bytes), most_bytes)
    return Usage(max(0, used_bytes), gap, total_moves)
