"""A queue as the driver's tasks use it: send a message, wait until the device has used it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ballonet.driver.transport import Transport
from ballonet.kernel.tasks import Flag, Job, Rest, Sleep
from ballonet.virtio.ring.chain import Piece
from ballonet.virtio.ring.driver import DriverRing, Used

__all__ = ["DriverQueue"]

_REMIND_NS: Final = 5_000_000_000


class DriverQueue:
    """One queue, its ring and whoever waits for it."""

    def __init__(self, number: int, ring: DriverRing, transport: Transport) -> None:
        self.number: Final = number
        self.ring: Final = ring
        self.called: Final = Flag()
        self.slow_answers = 0  #: times the device left a message for five seconds
        self._transport = transport
        self._done: dict[int, Used] = {}

    def send(self, readable: Sequence[Piece], writable: Sequence[Piece] = ()) -> int:
        """Make a chain available; returns its head. Raises: RingError."""
        head = self.ring.add(readable, writable)
        if self.ring.publish():
            self._transport.kick(self.number)
        return head

    def wait(self, head: int) -> Job[Used]:
        """Until the device has used a chain, however long that takes."""
        while head not in self._done:
            self.called.clear()
            self.collect()
            if head not in self._done:
                yield Sleep(_REMIND_NS, self.called)
                self.slow_answers += not self.called.is_set
        return self._done.pop(head)

    def rest_until_used(self, head: int, now_ns: Callable[[], int]) -> Job[None]:
        """The same at a rest: the task keeps the head, and may begin to wait anew."""
        while head not in self._done:
            self.called.clear()
            self.collect()
            if head not in self._done:
                yield Rest(self.called, now_ns() + _REMIND_NS)
                self.slow_answers += not self.called.is_set
        del self._done[head]

    def collect(self) -> None:
        """Note what came back. Raises: RingError."""
        for used in self.ring.collect():
            self._done[used.head] = used

    def forget(self) -> int:
        """Drop what came back and nobody waits for; returns how many chains that was."""
        count = len(self._done)
        self._done.clear()
        return count

    def take_used(self, head: int) -> Used | None:
        """What became of a chain, None while the device has it."""
        self.collect()
        return self._done.pop(head, None)
