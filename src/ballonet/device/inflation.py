"""Inflate and deflate messages: pages that change hands.

A page the driver gives is dropped before its message is answered or, where the driver asks before
it uses the page again (MUST_TELL_HOST), a little later.  A deflate stands in the ledger before it
is answered, whatever it is: one that cannot be read takes every page back.
Not here: when a message is answered (balloon.py), whose a page is (page_ledger.py).
Source: VIRTIO 1.4 5.5.6; QEMU virtio_balloon_handle_output.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ballonet.balloon.page_ledger import PageLedger
from ballonet.device.clock import Clock
from ballonet.device.counters import Counters
from ballonet.device.effects import ChainRefused, Effect, Emit, PagesRejected, PartDone
from ballonet.device.inhibition import Inhibition
from ballonet.device.pfns import MESSAGE_BYTES_MAX, given_pfns, taken_pfns
from ballonet.errors import GuestMemoryError
from ballonet.memory.regions import RegionTable
from ballonet.memory.runs import Ranges, locate
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain, GuestView, read_pieces

__all__ = ["BalloonMemory", "Inflation"]

#: More than any driver gives in one message, so that only hostile ones are cut.
_PART_PAGES: Final = 1 << 13

Pfns = NDArray[np.unsignedinteger]


class BalloonMemory(GuestView, Protocol):
    """Guest memory, and the table that says where it lies."""

    @property
    def table(self) -> RegionTable:
        """The regions."""
        ...


@dataclass(slots=True)
class Inflation:
    """The inflate and the deflate queue of one device."""

    counters: Counters
    inhibition: Inhibition
    ledger: PageLedger
    clock: Clock
    defers: bool  #: drop memory later, where the driver asks before it uses a page again
    big_endian: bool = False

    def inflate(
        self, chain: Chain, memory: BalloonMemory, *, must_tell_host: bool
    ) -> Generator[Effect, None, None]:
        """Take the pages of a message. Raises: GuestMemoryError, and nothing is taken."""
        if chain.readable_bytes > MESSAGE_BYTES_MAX:
            yield from self._refuse(QueueRole.INFLATE, chain)
            return
        pfns = given_pfns(read_pieces(memory, chain.readable), big_endian=self.big_endian)
        for part in _parts(pfns):
            if must_tell_host and self.defers:
                self.ledger.enqueue_message(part, memory.table, self.clock.now_ns())
                if self.ledger.wants_sorting:
                    yield from self.sort()
            else:
                yield from self._discard(part, memory.table, must_tell_host=must_tell_host)
            if part.size < pfns.size:
                yield PartDone()
        self.counters.inflate_messages += 1
        self.counters.inflated_pages += pfns.size

    def sort(self) -> Iterator[Effect]:
        """Find out what the messages mean whose pages wait as they came."""
        yield from self._count_rejected(QueueRole.INFLATE, self.ledger.sort())

    def deflate(self, chain: Chain, memory: BalloonMemory) -> Generator[Effect, None, None]:
        """Give pages back: those the message may mean, all if it cannot be read in full.

        Raises: GuestMemoryError, after all were given back.
        """
        if chain.is_cut or chain.writable or chain.readable_bytes > MESSAGE_BYTES_MAX:
            self.ledger.take_back_all()
            yield from self._refuse(QueueRole.DEFLATE, chain)
            return
        try:
            raw = read_pieces(memory, chain.readable)
        except GuestMemoryError:
            self.ledger.take_back_all()
            raise
        self.counters.deflate_messages += 1
        taken = taken_pfns(raw, big_endian=self.big_endian)
        if taken is None:
            self.ledger.take_back_all()
            return
        for part in _parts(taken):
            yield from self.sort()
            self.ledger.take_back(part, self.clock.now_ns())
            if part.size < taken.size:
                yield PartDone()
        pfns = given_pfns(raw, big_endian=self.big_endian)
        self.counters.deflated_pages += pfns.size
        for part in _parts(pfns):
            rejected_pages = locate(part, memory.table).rejected_pages
            yield from self._count_rejected(QueueRole.DEFLATE, rejected_pages)

    def _discard(self, pfns: Pfns, table: RegionTable, *, must_tell_host: bool) -> Iterator[Effect]:
        """Drop the pages of a message that is not answered yet."""
        found: Iterable[Ranges]
        if must_tell_host:
            found, rejected_pages = self.ledger.hold(pfns, table)
        else:
            found, _, rejected_pages = locate(pfns, table)
        yield from self._count_rejected(QueueRole.INFLATE, rejected_pages)
        yield from self.inhibition.discard(found)

    def _refuse(self, role: QueueRole, chain: Chain) -> Iterator[Effect]:
        self.counters.refused_chains += 1
        if chain.writable:
            reason = "page numbers are for the device to read, not to write"
        elif chain.is_cut:
            reason = "its list of descriptors is too long"
        else:
            reason = f"{chain.readable_bytes} bytes are too long a message"
        yield Emit(ChainRefused(role, reason))

    def _count_rejected(self, role: QueueRole, count: int) -> Iterator[Effect]:
        if count:
            self.counters.rejected_pages += count
            yield Emit(PagesRejected(role, count))


def _parts(pfns: Pfns) -> Iterator[Pfns]:
    """The page numbers of a message, cut into pieces of about a millisecond's work."""
    for start in range(0, pfns.size, _PART_PAGES):
        yield pfns[start : start + _PART_PAGES]
