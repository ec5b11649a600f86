"""When memory must not be discarded, whatever the driver gives.

Discarding is inhibited while anyone has a reason: memory is pinned for a device (VFIO) or locked,
a postcopy destination still fills it, a snapshot still reads it, or the operator says so.  Each
reason counts how often it was given, so that two of a kind do not lift each other.  Requests are
answered all the same: the driver notices nothing.
Source: QEMU virtio_balloon_inhibited, ram_block_discard_disable.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum

from ballonet.errors import UsageError

__all__ = ["InhibitReason", "Inhibition"]


class InhibitReason(Enum):
    """Why memory must stay."""

    OPERATOR = "operator"  #: somebody asked for it
    PINNED = "pinned"  #: another device holds on to the pages, or they are locked
    POSTCOPY = "postcopy"  #: pages still arrive from a migration's source
    SNAPSHOT = "snapshot"  #: pages are still being saved


class Inhibition:
    """The reasons that hold now."""

    def __init__(self) -> None:
        self._held: Counter[InhibitReason] = Counter()

    @property
    def reasons(self) -> tuple[InhibitReason, ...]:
        """Why discarding is inhibited; empty when it is not."""
        return tuple(reason for reason in InhibitReason if self._held[reason])

    def inhibit(self, reason: InhibitReason) -> None:
        """Hold discards off, until lifted as often."""
        self._held[reason] += 1

    def lift(self, reason: InhibitReason) -> None:
        """Take back one `inhibit`. Raises: UsageError, if there was none."""
        if not self._held[reason]:
            raise UsageError(f"discarding is not inhibited as {reason.value}")
        self._held[reason] -= 1
