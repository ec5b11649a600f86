"""Inflate and deflate messages: pages that change hands.

A page the driver gives is discarded before its message is answered.  Host pages bigger than a
balloon page are discarded when all their parts were given: in one message or, with
MUST_TELL_HOST, in any number of them.
Not here: when a message is answered (balloon.py).
Source: VIRTIO 1.4 5.5.6; QEMU virtio_balloon_handle_output.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ballonet.device.counters import Counters
from ballonet.device.deferral import Deferral
from ballonet.device.effects import ChainRefused, Effect, Emit, PagesRejected
from ballonet.device.inhibition import Inhibition
from ballonet.device.pfns import MESSAGE_BYTES_MAX, parse_pfns
from ballonet.memory.host_pages import HostPageParts
from ballonet.memory.regions import RegionTable
from ballonet.memory.runs import Located, Ranges, locate
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain, GuestView, read_pieces

__all__ = ["BalloonMemory", "Inflation"]

_NO_PFNS = np.empty(0, np.uint32)


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
    deferral: Deferral | None = None  #: None: memory is dropped before a message is answered
    big_endian: bool = False
    _parts: HostPageParts | None = field(default=None, init=False)

    def inflate(
        self, chain: Chain, memory: BalloonMemory, *, must_tell_host: bool
    ) -> Generator[Effect, None, None]:
        """Discard the pages of a message. Raises: GuestMemoryError."""
        pfns = yield from self._read(QueueRole.INFLATE, chain, memory)
        if self.deferral is not None and must_tell_host:
            self.deferral.put(pfns, memory.table)
        else:
            yield from self._discard(pfns, memory.table, must_tell_host=must_tell_host)
        self.counters.inflate_messages += 1
        self.counters.inflated_pages += pfns.size
        if self.deferral is not None and self.deferral.wants_sorting:
            yield from self.sort()

    def sort(self) -> Generator[Effect, None, None]:
        """Find out what the messages mean whose pages were put off as they came."""
        pfns = None if self.deferral is None else self.deferral.pull()
        if self.deferral is not None and pfns is not None:
            table = self.deferral.table
            located = locate(pfns, table)
            self.deferral.give(self._with_parts(pfns, located, table))
            yield from self._count_rejected(QueueRole.INFLATE, located)

    def deflate(self, chain: Chain, memory: BalloonMemory) -> Generator[Effect, None, None]:
        """Note that the driver takes pages back. Raises: GuestMemoryError."""
        pfns = yield from self._read(QueueRole.DEFLATE, chain, memory)
        yield from self.sort()
        if self._parts is not None:
            self._parts.take(pfns)
        if self.deferral is not None:
            self.deferral.take(pfns)
        yield from self._count_rejected(QueueRole.DEFLATE, locate(pfns, memory.table))
        self.counters.deflate_messages += 1
        self.counters.deflated_pages += pfns.size

    def forget_parts(self) -> None:
        """Another driver or other memory may come next: no page is known to be in the balloon."""
        self._parts = None

    def _read(
        self, role: QueueRole, chain: Chain, memory: BalloonMemory
    ) -> Generator[Effect, None, NDArray[np.unsignedinteger]]:
        if chain.readable_bytes > MESSAGE_BYTES_MAX:
            self.counters.refused_chains += 1
            yield Emit(ChainRefused(role, f"{chain.readable_bytes} bytes are too long a message"))
            return _NO_PFNS
        raw = read_pieces(memory, chain.readable)
        return parse_pfns(raw, big_endian=self.big_endian)

    def _discard(
        self, pfns: NDArray[np.unsignedinteger], table: RegionTable, *, must_tell_host: bool
    ) -> Iterator[Effect]:
        located = locate(pfns, table)
        yield from self._count_rejected(QueueRole.INFLATE, located)
        ranges = self._with_parts(pfns, located, table) if must_tell_host else located.ranges
        yield from self.inhibition.discard(ranges)

    def _count_rejected(self, role: QueueRole, located: Located) -> Iterator[Effect]:
        if located.rejected_pages:
            self.counters.rejected_pages += located.rejected_pages
            yield Emit(PagesRejected(role, located.rejected_pages))

    def _with_parts(
        self, pfns: NDArray[np.unsignedinteger], located: Located, table: RegionTable
    ) -> Iterator[Ranges]:
        """The ranges of a message, with host pages that earlier messages had begun."""
        if self._parts is None or self._parts.table is not table:
            self._parts = HostPageParts(table)
        parts = self._parts
        yield from (ranges for ranges in located.ranges if not parts.covers(ranges.region))
        yield from parts.give(pfns)
