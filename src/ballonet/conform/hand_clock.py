"""A clock that a check moves, so that minutes of a protocol cost no time.

Source: the idea is trio's MockClock.
"""

from __future__ import annotations

from ballonet.balloon.clock import NS_PER_S

__all__ = ["HandClock"]

#: Not 0, so that nothing is right because it is.
_START_NS = 7_000_000_123


class HandClock:
    """A `Clock` that stands still until it is moved."""

    def __init__(self) -> None:
        self._ns = _START_NS

    def now_ns(self) -> int:
        """The time it was moved to."""
        return self._ns

    def wall_s(self) -> int:
        """Seconds since 1970; it began soon after."""
        return self._ns // NS_PER_S

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._ns += int(seconds * NS_PER_S)

    def move_to(self, ns: int) -> None:
        """Move on to a time, unless it is past."""
        self._ns = max(self._ns, ns)
