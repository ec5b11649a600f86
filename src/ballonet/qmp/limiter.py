"""How often an event of one kind may go out: the first at once, then at most one a second.

What comes meanwhile replaces what waits, so the last is never lost; an event keeps the time it
happened at.  Time is handed in.
Source: QEMU monitor/monitor.c monitor_qapi_event_queue_no_reenter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["EVENT_INTERVAL_NS", "Event", "EventLimiter"]

EVENT_INTERVAL_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `wall_ns` since 1970."""

    name: str
    data: dict[str, object] = field(default_factory=dict)
    wall_ns: int = 0


class EventLimiter:
    """One limit for each kind of event."""

    def __init__(self) -> None:
        self._waiting: dict[str, Event] = {}
        self._until_ns: dict[str, int] = {}

    @property
    def deadline_ns(self) -> int | None:
        """When `due` has something to do."""
        return min(self._until_ns.values(), default=None)

    def put(self, event: Event, now_ns: int) -> Event | None:
        """Take an event; returns it if it may go out at once."""
        if event.name in self._until_ns:
            self._waiting[event.name] = event
            return None
        self._until_ns[event.name] = now_ns + EVENT_INTERVAL_NS
        return event

    def due(self, now_ns: int) -> list[Event]:
        """What waited long enough; a kind with nothing waiting is unlimited again."""
        ready = []
        for name in [name for name, until_ns in self._until_ns.items() if until_ns <= now_ns]:
            event = self._waiting.pop(name, None)
            if event is None:
                del self._until_ns[name]
            else:
                self._until_ns[name] = now_ns + EVENT_INTERVAL_NS
                ready.append(event)
        return ready

    def rest(self) -> list[Event]:
        """What still waits, for the end, when there is nothing to spare any more."""
        rest = list(self._waiting.values())
        self._waiting.clear()
        return rest
