"""The guest's way into the channel: each message has the next number, and waits for room.

Source: Linux drivers/hv/hv_balloon.c trans_id, balloon_up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ballonet.hyperv.messages import Message
from ballonet.kernel.tasks import Job, Scheduler, Sleep

__all__ = ["GuestChannel", "MakeMessage"]

#: Between two tries to put a message into a full ring, as in Linux.
_RETRY_NS: Final = 20_000_000
_TRANS_IDS: Final = 1 << 32

#: Makes a message with this transaction number.
MakeMessage = Callable[[int], Message]


class GuestChannel:
    """Of one driver; open until it is closed."""

    def __init__(self, scheduler: Scheduler, send: Callable[[bytes], bool]) -> None:
        self.trans_id = 0  #: of the newest message
        self.full_rings = 0  #: times a message found no room
        self.is_open = True
        self._scheduler, self._send = scheduler, send

    def try_to_send(self, make: MakeMessage) -> bool:
        """Send a message, unless the ring is full; it is not kept."""
        self.trans_id = (self.trans_id + 1) % _TRANS_IDS
        if self.is_open and self._send(make(self.trans_id).build()):
            return True
        self.full_rings += 1
        return False

    def send(self, make: MakeMessage, end_ns: int | None = None) -> Job[bool]:
        """Send a message when there is room; False if the channel was closed, or it is too late."""
        while self.is_open and (end_ns is None or self._scheduler.now_ns < end_ns):
            if self.try_to_send(make):
                return True
            yield Sleep(_RETRY_NS)
        return False
