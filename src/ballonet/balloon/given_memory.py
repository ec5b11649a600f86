"""The memory that a host was given, for balloons whose guests ask before they use a page again.

Both siblings of virtio's balloon are of that kind: a page is the host's from the message that
gives it until the host has agreed to give it back.  So what is given may be dropped a little
later, behind the guest's back, in large ranges.
Not here: who was given which page by the protocol's own rules (vmware, hyperv).
Units: 4 KiB balloon pages.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.balloon.clock import Clock
from ballonet.balloon.counters import Counters
from ballonet.balloon.discarder import Discarder
from ballonet.balloon.facts import GuestChanged, Observers, PagesRejected
from ballonet.balloon.inhibition import Inhibition
from ballonet.balloon.memory import BalloonMemory
from ballonet.balloon.page_ledger import PageLedger
from ballonet.virtio.queues import QueueRole

__all__ = ["GivenMemory"]

Pfns = NDArray[np.uint64]


class GivenMemory:
    """Of one guest at a time; without a guest nothing is given or dropped."""

    def __init__(self, clock: Clock) -> None:
        self.counters: Final = Counters()
        self.observers: Final = Observers()
        self.inhibition: Final = Inhibition()
        self.ledger: Final = PageLedger()
        self._clock = clock
        self._discarder = Discarder(self.inhibition, self.counters, self.observers, clock)
        self._memory: BalloonMemory | None = None

    @property
    def memory(self) -> BalloonMemory | None:
        """The guest's, while there is one."""
        return self._memory

    @property
    def deadline_ns(self) -> int | None:
        """When something that waits should be dropped; None: nothing waits."""
        return self.ledger.deadline_ns

    def attach(self, memory: BalloonMemory) -> None:
        """A guest is there, and has all of its memory."""
        self.detach()
        self._memory = memory
        self.observers.tell(GuestChanged())

    def detach(self) -> None:
        """The guest is gone; what waited is dropped first."""
        if self._memory is not None:
            self.flush()
            self.ledger.take_back_all()
            self._memory = None
            self.observers.tell(GuestChanged())

    def give(self, pfns: Pfns) -> None:
        """The host may drop these pages; those that name no memory are counted and left alone."""
        if self._memory is None or not pfns.size:
            return
        self.counters.inflate_messages += 1
        self.counters.inflated_pages += pfns.size
        self.ledger.enqueue_message(pfns, self._memory.table, self._clock.now_ns())
        if self.ledger.wants_sorting:
            self._sort()

    def take_back(self, pfns: Pfns) -> None:
        """The guest is about to hear that it has these pages again."""
        if self._memory is None or not pfns.size:
            return
        self.counters.deflate_messages += 1
        self.counters.deflated_pages += pfns.size
        self._sort()
        self.ledger.take_back(pfns, self._clock.now_ns())

    def take_back_all(self) -> None:
        """The guest may have any page again: it was reset, or nobody knows."""
        self.ledger.take_back_all()

    def work(self, *, busy: bool) -> bool:
        """Drop a little of what waits, if it is time; True if there is more to do at once."""
        now_ns = self._clock.now_ns()
        if self.ledger.is_overdue(now_ns) or (not busy and self.ledger.is_due(now_ns)):
            return self._drop_step()
        return False

    def flush(self) -> None:
        """Drop all that waits."""
        while self._drop_step():
            pass

    def _drop_step(self) -> bool:
        self._sort()
        ranges = self.ledger.step()
        if ranges is None or self._memory is None:
            return False
        self._discarder.discard_piece(self._memory, ranges)
        return True

    def _sort(self) -> None:
        rejected = self.ledger.sort()
        if rejected:
            self.counters.rejected_pages += rejected
            self.observers.tell(PagesRejected(QueueRole.INFLATE, rejected))
