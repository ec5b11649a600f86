"""The host's clocks, for devices that live in this process."""

from __future__ import annotations

import time

__all__ = ["SystemClock"]


class SystemClock:
    """A device's `Clock`."""

    def now_ns(self) -> int:
        """Nanoseconds that never go backwards."""
        return time.monotonic_ns()

    def wall_s(self) -> int:
        """Seconds since 1970."""
        return int(time.time())
