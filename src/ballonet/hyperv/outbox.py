"""Messages on their way into a ring that may be full.

There are as many as one step of the conversation makes, two at most; the next step is not taken
until they are gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ballonet.balloon.clock import Clock
from ballonet.hyperv.host_counters import HostCounters

__all__ = ["Outbox"]

#: A host is not told when its guest has made room; Linux's driver, which waits too, looks as often.
_RETRY_NS: Final = 20_000_000


class Outbox:
    """Of one host."""

    def __init__(self, clock: Clock, counters: HostCounters, send: Callable[[bytes], bool]) -> None:
        self._clock, self._counters, self._send = clock, counters, send
        self._messages: deque[bytes] = deque()
        self.retry_at_ns: int | None = None  #: when to flush again

    @property
    def is_empty(self) -> bool:
        """Everything was sent."""
        return not self._messages

    def put(self, message: bytes) -> None:
        """Let a message be sent with the next flush."""
        self._messages.append(message)

    def flush(self) -> bool:
        """Send what can be sent; False if the ring is full."""
        self.retry_at_ns = None
        while self._messages:
            if not self._send(self._messages[0]):
                self._counters.full_rings += 1
                self.retry_at_ns = self._clock.now_ns() + _RETRY_NS
                return False
            self._messages.popleft()
        return True

    def clear(self) -> None:
        """The ring is gone."""
        self._messages.clear()
        self.retry_at_ns = None
