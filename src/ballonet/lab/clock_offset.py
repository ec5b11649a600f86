"""Two clocks as one: how far a guest's is from ours, and how well that is known.

A mark is written in the guest between two readings of our clock.  Whenever it was written, the
middle of the two is at most half of their distance away: the shortest round trip of many says the
most.  Between two such measurements the offset is taken to change evenly.
Not here: whoever carries the marks (traced_guest.py).
Units: nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ballonet.errors import GuestError

__all__ = ["STEADY_CLOCK", "RoundTrip", "SharedClock", "shortest"]

#: For the guest's kernel: QEMU's HPET goes with QEMU's own clock, and is off by nothing each
#: second, where a kernel that measures its processor's clock on a busy machine may be off by much.
STEADY_CLOCK: Final = "clocksource=hpet"
#: A trace says microseconds, and cuts the rest.
_RESOLUTION_NS: Final = 1_000


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One mark: our clock before it and after it, and the guest's when it was written."""

    sent_ns: int
    marked_ns: int
    heard_ns: int

    @property
    def middle_ns(self) -> int:
        """When it was written, as far as we know, by our clock."""
        return (self.sent_ns + self.heard_ns) // 2

    @property
    def offset_ns(self) -> int:
        """How far the guest's clock is ahead of ours."""
        return self.marked_ns - self.middle_ns

    @property
    def error_ns(self) -> int:
        """The offset is not wrong by more."""
        return (self.heard_ns - self.sent_ns + 1) // 2 + _RESOLUTION_NS


def shortest(trips: Iterable[RoundTrip]) -> RoundTrip:
    """The one that says most. Raises: GuestError, if there is none."""
    best = min(trips, key=lambda trip: trip.error_ns, default=None)
    if best is None:
        raise GuestError("no mark of ours is in the guest's trace")
    return best


class SharedClock:
    """Translates the guest's clock into ours; made of one or several measurements."""

    def __init__(self, trips: Sequence[RoundTrip]) -> None:
        """Raises: GuestError, without any."""
        if not trips:
            raise GuestError("the offset of the guest's clock was not measured")
        self._trips = sorted(trips, key=lambda trip: trip.marked_ns)

    @property
    def error_ns(self) -> int:
        """No translation between the first and the last measurement is wrong by more."""
        return max(trip.error_ns for trip in self._trips)

    @property
    def offset_ns(self) -> int:
        """How far the guest's clock is ahead of ours, at the first measurement."""
        return self._trips[0].offset_ns

    def ours_ns(self, guest_ns: int) -> int:
        """When it was by our clock that it was `guest_ns` by the guest's."""
        return guest_ns - self._offset_at_ns(guest_ns)

    def _offset_at_ns(self, guest_ns: int) -> int:
        before = [trip for trip in self._trips if trip.marked_ns <= guest_ns]
        after = [trip for trip in self._trips if trip.marked_ns > guest_ns]
        if not before or not after:
            return (before or after)[-1 if before else 0].offset_ns
        first, last = before[-1], after[0]
        change_ns, length_ns = (
            last.offset_ns - first.offset_ns,
            last.marked_ns - first.marked_ns,
        )
        return first.offset_ns + change_ns * (guest_ns - first.marked_ns) // length_ns
