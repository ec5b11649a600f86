"""Events on their way from any thread to the monitor's.

What belongs to an event is taken at once, for it is of that moment; the monitor's thread is woken
at most once while it has not looked.  While the outbox is closed, nothing is taken or kept, and
nobody woken.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from ballonet.qmp.limiter import Event

__all__ = ["EventData", "Outbox"]

#: What belongs to an event, asked for when it happens and somebody wants to know.
EventData = Callable[[], dict[str, object]]

#: The oldest of more than this many are forgotten.
POSTED_MAX: Final = 1024


class Outbox:
    """Posted from any thread, taken by one."""

    def __init__(self) -> None:
        self._posted: deque[Event] = deque(maxlen=POSTED_MAX)
        self._wake: Callable[[], object] | None = None
        self._is_open = False

    def open(self) -> None:
        """Somebody wants to hear of what is posted from now on; safe to call again."""
        self._is_open = True

    def close(self) -> None:
        """Nobody does: forget what was posted, and whom to wake."""
        self._is_open = False
        self._wake = None
        self._posted.clear()

    def post(self, name: str, data: EventData = dict) -> None:
        """Leave an event for whoever takes them, with the time of day."""
        if not self._is_open:
            return
        self._posted.append(Event(name, data(), time.time_ns()))
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
            yield self._posted.popleft()
