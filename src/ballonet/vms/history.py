"""The last rounds of one machine, for whoever draws them.

A round in which it has told nothing new is unknown.
Units: bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from ballonet.vms.observation import Observation

__all__ = ["ROUNDS_MOST", "History", "Point"]

#: As wide as a terminal gets.
ROUNDS_MOST: Final = 240


class Point(NamedTuple):
    """One round; None: not known."""

    actual_bytes: int | None = None
    available_bytes: int | None = None
    held_bytes: int | None = None


class History:
    """Bounded: what is older than so many rounds is forgotten."""

    def __init__(self, before: Iterable[Point] = (), rounds_most: int = ROUNDS_MOST) -> None:
        """`before`: rounds that somebody else has seen, the oldest first."""
        self._points: deque[Point] = deque(before, maxlen=rounds_most)
        self._at_s: float | None = None

    def see(self, look: Observation) -> None:
        """Note a round."""
        if look.at_s == self._at_s:
            self._points.append(Point())
            return
        self._at_s = look.at_s
        self._points.append(Point(look.actual_bytes, look.available_bytes, look.host.held_bytes))

    @property
    def points(self) -> Sequence[Point]:
        """The oldest first."""
        return tuple(self._points)
