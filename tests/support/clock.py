"""A clock that stands still until a test moves it."""

from __future__ import annotations


class FakeClock:
    """Starts at an odd time, so that nothing is right because it is zero."""

    def __init__(self) -> None:
        self.ns = 7_000_000_123
        self.calendar_s = 1_700_000_000

    def now_ns(self) -> int:
        """The time the test has set."""
        return self.ns

    def wall_s(self) -> int:
        """The time of day the test has set."""
        return self.calendar_s

    def advance(self, seconds: float) -> None:
        """Move on."""
        self.ns += int(seconds * 1_000_000_000)
        self.calendar_s += int(seconds)

    def advance_ns(self, ns: int) -> None:
        """Move on by so many nanoseconds."""
        self.ns += ns
