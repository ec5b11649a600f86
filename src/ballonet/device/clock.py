"""The clocks a device is given; it has none of its own."""

from __future__ import annotations

from typing import Protocol

__all__ = ["NS_PER_S", "Clock"]

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """Time for timers and ages, and time of day for people."""

    def now_ns(self) -> int:
        """Nanoseconds that never go backwards."""
        ...

    def wall_s(self) -> int:
        """Seconds since 1970, as the host's calendar has it."""
        ...
