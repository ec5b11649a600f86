"""Inflate and deflate messages: pages that change hands.

A page the driver gives is dropped before its message is answered or, where the driver asks before
it uses the page again (MUST_TELL_HOST), a little later.  A deflate stands in the ledger before it
is answered, whatever it is: one that cannot be read takes every page back.
Not here: when a message is answered (queues.py), whose a page is (page_ledger.py).
Source: VIRTIO 1.4 5.5.6; QEMU virtio_balloon_handle_output.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.balloon.clock import Clock
from ballonet.balloon.counters import Counters
from ballonet.balloon.discarder import Discarder
from ballonet.balloon.facts import ChainDone, ChainRefused, Observers, PagesRejected
from ballonet.balloon.page_ledger import PageLedger
from ballonet.device.guest_link import GuestLink
from ballonet.device.pfns import MESSAGE_BYTES_MAX, given_pfns, taken_pfns
from ballonet.errors import GuestMemoryError
from ballonet.memory.runs import Ranges, locate
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain, read_pieces

__all__ = ["Inflation"]

#: The most a driver gives in one message: 256 by Linux, 512 by Windows.  It is served in one go.
_SHORT_PAGES: Final = 512
#: More is served in parts of about a millisecond's work.
_PART_PAGES: Final = 1 << 13

Pfns = NDArray[np.unsignedinteger]


class Inflation:
    """The inflate and the deflate queue of one device."""

    def __init__(
        self,
        link: GuestLink,
        ledger: PageLedger,
        discarder: Discarder,
        counters: Counters,
        observers: Observers,
        clock: Clock,
    ) -> None:
        self._link, self._ledger, self._discarder = link, ledger, discarder
        self._counters, self._observers, self._clock = counters, observers, clock
        self.must_tell_host = False  #: the driver asks before it uses a page of the balloon
        self.defers = False  #: memory is dropped a little after the answer, where the driver asks
        self.big_endian = False  #: messages of a legacy driver of a big-endian guest

    def inflate(self, chain: Chain) -> Iterator[None] | None:
        """Take the pages of a message; what it returns is work that is left before the answer.

        Raises: GuestMemoryError, and nothing is taken.
        """
        if chain.readable_bytes > MESSAGE_BYTES_MAX:
            self._refuse(QueueRole.INFLATE, chain)
            return None
        raw = read_pieces(self._link.memory, chain.readable)
        pfns = given_pfns(raw, big_endian=self.big_endian)
        if self.defers and pfns.size <= _SHORT_PAGES:
            self._ledger.enqueue_message(pfns, self._link.memory.table, self._clock.now_ns())
            self._count_inflated(pfns)
            return None
        return self._inflate_in_parts(pfns)

    def deflate(self, chain: Chain) -> Iterator[None] | None:
        """Give pages back: those the message may mean, all if it cannot be read in full.

        What it returns is work that is left before the answer.
        Raises: GuestMemoryError, after all were given back.
        """
        if chain.is_cut or chain.writable or chain.readable_bytes > MESSAGE_BYTES_MAX:
            self._ledger.take_back_all()
            self._refuse(QueueRole.DEFLATE, chain)
            return None
        try:
            raw = read_pieces(self._link.memory, chain.readable)
        except GuestMemoryError:
            self._ledger.take_back_all()
            raise
        self._counters.deflate_messages += 1
        taken = taken_pfns(raw, big_endian=self.big_endian)
        if taken is None:
            self._ledger.take_back_all()
            return None
        named = given_pfns(raw, big_endian=self.big_endian)
        if taken.size > _SHORT_PAGES:
            return self._deflate_in_parts(taken, named)
        self._take_back(taken)
        self._count_deflated(named)
        self._tell_done(QueueRole.DEFLATE, named)
        return None

    def wants_discard(self, *, busy: bool) -> bool:
        """It is time to drop what waits; `busy`: the guest has something else for the device."""
        now_ns = self._clock.now_ns()
        return self._ledger.is_overdue(now_ns) or (not busy and self._ledger.is_due(now_ns))

    def sort_waiting(self) -> None:
        """Find out what the messages mean whose pages wait as they came."""
        self._count_rejected(QueueRole.INFLATE, self._ledger.sort())

    def discard_waiting(self) -> bool:
        """Drop a little of what waits; False if nothing does."""
        self.sort_waiting()
        ranges = self._ledger.step()
        if ranges is None:
            return False
        self._discarder.discard_piece(self._link.memory, ranges)
        return True

    def flush(self) -> None:
        """Drop now all that waits: before rings stop, memory changes, or the device ends."""
        while self.discard_waiting():
            pass

    def _inflate_in_parts(self, pfns: Pfns) -> Iterator[None]:
        for part in _parts(pfns):
            if self.defers:
                self._ledger.enqueue_message(part, self._link.memory.table, self._clock.now_ns())
                self.sort_waiting()
            else:
                yield from self._discarder.discard(self._link.memory, self._find(part))
            yield
        self._count_inflated(pfns)

    def _find(self, pfns: Pfns) -> Iterable[Ranges]:
        """What may be dropped for the pages of a message that is not answered yet."""
        found: Iterable[Ranges]
        if self.must_tell_host:
            found, rejected_pages = self._ledger.hold(pfns, self._link.memory.table)
        else:
            found, _, rejected_pages = locate(pfns, self._link.memory.table)
        self._count_rejected(QueueRole.INFLATE, rejected_pages)
        return found

    def _deflate_in_parts(self, taken: Pfns, named: Pfns) -> Iterator[None]:
        for part in _parts(taken):
            self._take_back(part)
            yield
        for part in _parts(named):
            self._count_deflated(part)
            yield
        self._tell_done(QueueRole.DEFLATE, named)

    def _take_back(self, pfns: Pfns) -> None:
        self.sort_waiting()
        self._ledger.take_back(pfns, self._clock.now_ns())

    def _count_inflated(self, pfns: Pfns) -> None:
        self._counters.inflate_messages += 1
        self._counters.inflated_pages += pfns.size
        self._tell_done(QueueRole.INFLATE, pfns)

    def _count_deflated(self, pfns: Pfns) -> None:
        self._counters.deflated_pages += pfns.size
        table = self._link.memory.table
        self._count_rejected(QueueRole.DEFLATE, locate(pfns, table).rejected_pages)

    def _tell_done(self, role: QueueRole, pfns: Pfns) -> None:
        if self._observers.want_details:
            self._observers.tell_detail(ChainDone(role, pfns.size, pfns))

    def _count_rejected(self, role: QueueRole, count: int) -> None:
        if count:
            self._counters.rejected_pages += count
            self._observers.tell(PagesRejected(role, count))

    def _refuse(self, role: QueueRole, chain: Chain) -> None:
        self._counters.refused_chains += 1
        if chain.writable:
            reason = "page numbers are for the device to read, not to write"
        elif chain.is_cut:
            reason = "its list of descriptors is too long"
        else:
            reason = f"{chain.readable_bytes} bytes are too long a message"
        self._observers.tell(ChainRefused(role, reason))


def _parts(pfns: Pfns) -> Iterator[Pfns]:
    """The page numbers of a message, cut into pieces of about a millisecond's work."""
    for start in range(0, pfns.size, _PART_PAGES):
        yield pfns[start : start + _PART_PAGES]
