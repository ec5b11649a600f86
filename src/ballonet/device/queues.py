"""The way of a message: from a ring, through what it asks for, back into the ring.

Theory of operation.  A ring is attached while it may be served.  `process` takes chain after chain;
each is obeyed, then shown to the driver as used, then the driver is called, in this order, which
is the safety rule: what a chain gives is dropped, or stands in the ledger, before the driver
learns that it may go on.  Work that is long is left unfinished when the time of a turn is over: the
chain is not answered then, and the next turn goes on with it.  When its ring is detached meanwhile,
the chain is made available again, and is obeyed anew by whoever serves the ring next.
Not here: what a message asks for (inflation, hint_queue, reporting, statistics).
Source: VIRTIO 1.4 2.7, 5.5.6; QEMU hw/virtio/virtio-balloon.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ballonet.balloon.clock import Clock
from ballonet.balloon.counters import Counters
from ballonet.balloon.facts import (
    Called,
    ChainDone,
    ChainRefused,
    Observers,
    RingBroken,
    StatsReceived,
)
from ballonet.balloon.page_ledger import PageLedger
from ballonet.device.guest_link import GuestLink
from ballonet.device.inflation import Inflation
from ballonet.device.statistics import Statistics
from ballonet.errors import GuestMemoryError, RingError
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain, DeviceRing, read_pieces
from ballonet.virtio.stats import STATS_BYTES_MAX

__all__ = ["Queues", "Serve"]

#: Obeys a chain; what it returns is work that is left before the chain may be answered.
Serve = Callable[[Chain], Iterator[None] | None]


@dataclass(slots=True)
class _Queue:
    """One attached ring, and what its messages mean."""

    number: int
    role: QueueRole | None
    ring: DeviceRing
    serve: Serve
    head: int = 0  #: of the chain that is not finished
    rest: Iterator[None] | None = None  #: of what it asks for


class Queues:
    """The rings of one device."""

    def __init__(
        self,
        link: GuestLink,
        inflation: Inflation,
        ledger: PageLedger,
        statistics: Statistics,
        others: dict[QueueRole, Serve],
        counters: Counters,
        observers: Observers,
        clock: Clock,
    ) -> None:
        """`others`: what serves the hint and the reporting queue."""
        self.roles: tuple[QueueRole | None, ...] = ()
        self.broken: str | None = None  #: why the device stands still, until it is set up anew
        self.is_legacy = self.big_endian = False  #: as the driver's messages are
        self._link, self._inflation = link, inflation
        self._ledger, self._statistics = ledger, statistics
        self._counters, self._observers, self._clock = counters, observers, clock
        self._serves: Final[dict[QueueRole, Serve]] = {
            QueueRole.INFLATE: inflation.inflate,
            QueueRole.DEFLATE: inflation.deflate,
            **others,
        }
        self._attached: dict[int, _Queue] = {}

    @property
    def are_stopped(self) -> bool:
        """No ring is attached: nothing may be written to guest memory, no notification sent."""
        return not self._attached

    def is_attached(self, number: int) -> bool:
        """The ring may be served."""
        return number in self._attached

    def has(self, role: QueueRole) -> bool:
        """The queue of this role is attached."""
        return any(queue.role is role for queue in self._attached.values())

    def attach(self, number: int, ring: DeviceRing) -> None:
        """Let a ring be served from now on."""
        role = self.roles[number]
        serve = self._serves.get(role, self._refuse_unused) if role else self._refuse_unused
        self._attached[number] = _Queue(number, role, ring, serve)

    def detach(self, number: int) -> int | None:
        """Stop a ring; returns its base, None if it was not attached.

        A chain that is not finished, and a held statistics buffer, are available again.
        """
        queue = self._attached.pop(number, None)
        if queue is None:
            return None
        ring = queue.ring
        if queue.rest is not None:
            ring.un_pop()
        if queue.role is QueueRole.STATS and self._statistics.un_pop():
            ring.un_pop()
        base = ring.base
        ring.release()
        return base

    def process(self, number: int, end_ns: int) -> bool:
        """Serve a ring until it is empty or broken; False if the time was over before.

        At least one step is taken.  `end_ns`: by the device's clock.
        """
        queue = self._attached[number]
        ring = queue.ring
        try:
            ring.disable_kicks()
            while self.broken is None:
                if queue.rest is not None:
                    if not self._go_on(queue, end_ns):
                        return False
                elif (chain := ring.pop()) is not None:
                    self._serve(queue, chain)
                elif not ring.enable_kicks():
                    return True
                else:
                    ring.disable_kicks()
                    continue
                if self._ledger.wants_sorting:
                    self._inflation.sort_waiting()
                if self._ledger.is_full or self._clock.now_ns() >= end_ns:
                    return False
        except RingError as error:
            self.broken = f"queue {number}: {error}"
            self._counters.broken_rings += 1
            self._observers.tell(RingBroken(number, str(error)))
        return True

    def return_held_stats(self, head: int) -> None:
        """Give the driver its statistics buffer back, which asks for a sample."""
        for queue in self._attached.values():
            if queue.role is QueueRole.STATS:
                self._answer(queue, head)

    def _serve(self, queue: _Queue, chain: Chain) -> None:
        """Everything about one chain: what it asks for, then its answer."""
        unreadable = None
        try:
            if chain.is_cut and queue.role is not QueueRole.DEFLATE:
                self._refuse(queue.role, "its list of descriptors is too long")
            elif queue.role is QueueRole.STATS:
                self._hold_stats(queue, chain)
                return
            else:
                queue.rest = queue.serve(chain)
                if queue.rest is not None:
                    queue.head = chain.head
                    return
        except GuestMemoryError as error:
            unreadable = str(error)
        self._answer(queue, chain.head)
        if unreadable is not None:
            self._refuse(queue.role, unreadable)

    def _go_on(self, queue: _Queue, end_ns: int) -> bool:
        """Go on with a long message; answer it when it is done: True."""
        for _ in queue.rest or ():
            if self._ledger.is_full or self._clock.now_ns() >= end_ns:
                return False
        queue.rest = None
        self._answer(queue, queue.head)
        return True

    def _answer(self, queue: _Queue, head: int) -> None:
        """Return a chain to the driver with used length 0, as all balloon queues do."""
        queue.ring.push(head, 0)
        if queue.ring.publish():
            self._link.transport.call(queue.number)
            if self._observers.want_details:
                self._observers.tell_detail(Called(queue.role))

    def _hold_stats(self, queue: _Queue, chain: Chain) -> None:
        """Return the held buffer, if any, so that the order stays; then hold this one.

        This queue runs backwards: its chain is answered to ask for the next.
        Raises: GuestMemoryError.
        """
        held = self._statistics.take_held()
        if held is not None:
            self._answer(queue, held)
        raw = read_pieces(self._link.memory, [*_first_bytes(chain, STATS_BYTES_MAX)])
        self._statistics.receive(chain.head, raw, legacy=self.is_legacy, big_endian=self.big_endian)
        self._counters.stats_messages += 1
        self._observers.tell(StatsReceived())
        if self._observers.want_details:
            self._observers.tell_detail(ChainDone(QueueRole.STATS, 0))

    def _refuse_unused(self, _: Chain) -> None:
        self._refuse(None, "its queue is not in use")

    def _refuse(self, role: QueueRole | None, reason: str) -> None:
        self._counters.refused_chains += 1
        self._observers.tell(ChainRefused(role, reason))


def _first_bytes(chain: Chain, limit: int) -> Iterator[tuple[int, int]]:
    """The readable pieces of a chain, cut off after `limit` bytes."""
    for gpa, length in chain.readable:
        yield gpa, min(length, limit)
        limit -= min(length, limit)
        if not limit:
            return
