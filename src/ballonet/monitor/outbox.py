"""Events on their way from any thread to the monitor's.

The device's thread posts far faster than clients may be told, so what belongs to an event is only
made when it goes out, and the monitor's thread is woken at most once while it has not looked.
While it is closed, nothing is kept and nobody woken.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from ballonet.qmp.limiter import Event

__all__ = ["EventData", "Outbox"]

#: What belongs to an event, asked for when it goes out.
EventData = Callable[[], dict[str, object]]

#: The oldest of more than this many are forgotten.
_POSTED_MAX: Final = 1024


class Outbox:
    """Posted from any thread, taken by one."""

    def __init__(self) -> None:
        self._posted: deque[tuple[str, EventData, int]] = deque(maxlen=_POSTED_MAX)
        self._wake: Callable[[], object] | None = None
        self._is_open = False

    def open(self) -> None:
        """Somebody wants to hear of what is posted from now on."""
        self._is_open = True

    def close(self) -> None:
        """Nobody does: forget what was posted."""
        self._is_open = False
        self._posted.clear()

    def post(self, name: str, data: EventData = dict) -> None:
        """Leave an event for whoever takes them, with the time of day."""
        if not self._is_open:
            return
        self._posted.append((name, data, time.time_ns()))
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    def call_when_posted(self, wake: Callable[[], object]) -> None:
        """Call `wake` once, as soon as there is something: at once if there is already."""
        self._wake = wake
        if self._posted:
            self._wake = None
            wake()

    def take(self) -> Iterator[Event]:
        """Everything posted, oldest first."""
        while self._posted:
            name, data, wall_ns = self._posted.popleft()
            yield Event(name, data(), wall_ns)
