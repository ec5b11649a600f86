"""How much processor time the monitor may take from the device, which shares its interpreter.

Whoever serves clients pays after each piece of work by sleeping, so that over any second or more
the thread has used its share at most.  An ordinary client never sleeps: a burst is saved up.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

__all__ = ["CpuBudget"]

_SHARE: Final = 0.05
_BURST_S: Final = 0.05
_SLEEP_S_MAX: Final = 0.5


class CpuBudget:
    """The budget of the thread that makes it."""

    def __init__(self) -> None:
        self._credit_s = _BURST_S
        self._wall_s = time.monotonic()
        self._cpu_s = time.thread_time()

    async def pay(self) -> None:
        """Let others run; sleep until what was used is within the share again."""
        self._settle()
        await asyncio.sleep(min(_SLEEP_S_MAX, max(0.0, -self._credit_s / _SHARE)))

    def _settle(self) -> None:
        wall_s, cpu_s = time.monotonic(), time.thread_time()
        earned_s = (wall_s - self._wall_s) * _SHARE
        self._credit_s = min(_BURST_S, self._credit_s + earned_s - (cpu_s - self._cpu_s))
        self._wall_s, self._cpu_s = wall_s, cpu_s
