"""A change of the balloon on its way, as a client sees it: progress, speed, and a verdict.

Fed with what the monitor says now and then; time is handed in.
Units: bytes of memory left to the guest (logical size), seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["Change", "Progress", "Verdict"]

#: Without a move for so long a change is stuck.
STUCK_AFTER_S: Final = 5.0
#: So much further off than it was, a guest follows somebody else's request.
_WRONG_WAY_BYTES: Final = 8 << 20
#: Over which the speed is taken.
_SPEED_WINDOW_S: Final = 3.0


class Verdict(Enum):
    """How a change ended."""

    REACHED = "reached"
    PARTIAL = "partly reached when the time was over"
    STUCK = "stuck"
    SUPERSEDED = "superseded by another request"
    NO_DRIVER = "no driver: nobody in the guest uses the balloon"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a change stands."""

    start_bytes: int
    wanted_bytes: int
    now_bytes: int
    bytes_per_s: float
    eta_s: float | None

    @property
    def fraction(self) -> float:
        """Part of the way, 0 to 1."""
        way = abs(self.wanted_bytes - self.start_bytes)
        return 1.0 if not way else min(1.0, abs(self.now_bytes - self.start_bytes) / way)


class Change:
    """From a request to its verdict."""

    def __init__(self, start_bytes: int, wanted_bytes: int, now_s: float) -> None:
        self._start_bytes, self._wanted_bytes = start_bytes, wanted_bytes
        self._seen = [(now_s, start_bytes)]
        self._moved_s = now_s
        self._closest = abs(wanted_bytes - start_bytes)

    def see(self, now_bytes: int, now_s: float) -> Progress:
        """Note what the guest has now."""
        if now_bytes != self._seen[-1][1]:
            self._moved_s = now_s
        self._seen.append((now_s, now_bytes))
        self._seen = [one for one in self._seen if one[0] >= now_s - _SPEED_WINDOW_S] or [
            (now_s, now_bytes)
        ]
        self._closest = min(self._closest, abs(self._wanted_bytes - now_bytes))
        then_s, then_bytes = self._seen[0]
        span = now_s - then_s
        speed = abs(now_bytes - then_bytes) / span if span else 0.0
        left = abs(self._wanted_bytes - now_bytes)
        eta_s = left / speed if speed else None
        return Progress(self._start_bytes, self._wanted_bytes, now_bytes, speed, eta_s)

    def verdict(
        self, now_s: float, *, deadline_s: float, superseded: bool, has_driver: bool
    ) -> Verdict | None:
        """How it ended, or None while it goes on."""
        left = abs(self._wanted_bytes - self._seen[-1][1])
        if superseded or left > self._closest + _WRONG_WAY_BYTES:
            return Verdict.SUPERSEDED
        if left < BALLOON_PAGE_BYTES:
            return Verdict.REACHED
        if not has_driver:
            return Verdict.NO_DRIVER
        if now_s - self._moved_s > STUCK_AFTER_S:
            return Verdict.STUCK
        if now_s > deadline_s:
            return Verdict.PARTIAL
        return None
