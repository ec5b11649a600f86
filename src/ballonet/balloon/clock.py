"""The clocks a device is given; it has none of its own."""

from __future__ import annotations

from typing import Protocol

__all__ = ["NS_PER_S", "Clock", "earliest", "is_over"]

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """Time for timers and ages, and time of day for people."""

    def now_ns(self) -> int:
        """Nanoseconds that never go backwards."""
        ...

    def wall_s(self) -> int:
        """Seconds since 1970, as the host's calendar has it."""
        ...


def earliest(*deadlines_ns: int | None) -> int | None:
    """The first of some deadlines; None stands for never. It is asked for with every message."""
    first = None
    for deadline_ns in deadlines_ns:
        if deadline_ns is not None and (first is None or deadline_ns < first):
            first = deadline_ns
    return first


def is_over(deadline_ns: int | None, now_ns: int) -> bool:
    """There is a deadline, and its time has come."""
    return deadline_ns is not None and deadline_ns <= now_ns
