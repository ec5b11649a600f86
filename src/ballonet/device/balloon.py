"""The balloon device: composes configuration space, inflate, deflate and statistics.

Theory of operation.  A ring is attached while it may be processed; with none attached the device
is suspended and says nothing.  `process` is a generator: it pops a chain, yields what must happen,
and answers the chain only when asked for the next effect, so a page is always discarded before
the guest may use it again.  Closing it half-way makes the chain available again.
Not here: sockets, descriptors, mappings (vhost_user), polling timers.
Source: VIRTIO 1.4 5.5.6; QEMU virtio_balloon_handle_output.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from ballonet.device.config_space import ConfigSpace
from ballonet.device.counters import Counters
from ballonet.device.effects import (
    ActualChanged,
    Call,
    ChainDone,
    ChainRefused,
    ConfigChanged,
    Discard,
    Effect,
    Emit,
    PagesRejected,
    RingBroken,
    StatsReceived,
)
from ballonet.device.pfns import MESSAGE_BYTES_MAX, parse_pfns
from ballonet.device.statistics import Statistics
from ballonet.errors import GuestMemoryError, RingError
from ballonet.memory.regions import RegionTable
from ballonet.memory.runs import Located, locate
from ballonet.virtio.features import RING_FEATURES, Feature
from ballonet.virtio.queues import QueueLayout, QueueRole, queue_roles
from ballonet.virtio.ring.chain import Chain, DeviceRing, GuestView, read_pieces
from ballonet.virtio.stats import STATS_BYTES_MAX

__all__ = ["Balloon", "BalloonMemory", "BalloonSettings"]

#: Ranges in one Discard effect: bounds the time until the next look at everything else.
RANGES_PER_DISCARD: Final = 512


class BalloonMemory(GuestView, Protocol):
    """Guest memory, and the table that says where it lies."""

    @property
    def table(self) -> RegionTable:
        """The regions."""
        ...


@dataclass(frozen=True, slots=True)
class BalloonSettings:
    """What is fixed for the life of a device."""

    offered: Feature = RING_FEATURES | Feature.MUST_TELL_HOST | Feature.STATS_VQ
    layout: QueueLayout = QueueLayout.DENSE
    discards: bool = True  #: False: requests are answered, memory is kept


class Balloon:
    """One balloon device; inputs in, effects out."""

    def __init__(self, settings: BalloonSettings) -> None:
        self.settings: Final = settings
        self.counters: Final = Counters()
        self.config: Final = ConfigSpace()
        self.statistics: Final = Statistics()
        self.negotiate(0)
        self.broken: str | None = None  #: why the device stands still, until it is set up anew
        self._rings: dict[int, DeviceRing] = {}
        self._config_change_waits = False

    @property
    def suspended(self) -> bool:
        """No ring is attached: nothing may be written to guest memory, nobody told anything."""
        return not self._rings

    @property
    def target_pages(self) -> int:
        """What the host wants in the balloon."""
        return self.config.num_pages

    @property
    def actual_pages(self) -> int:
        """What the driver says is in it."""
        return self.config.actual_pages

    def negotiate(self, features: int) -> None:
        """Take the driver's choice; bits that were not offered are dropped."""
        self.negotiated = self.settings.offered & features
        self.roles = queue_roles(self.negotiated, self.settings.layout)
        self._poison = bool(self.negotiated & Feature.PAGE_POISON)

    def set_target(self, target_pages: int) -> Iterator[Effect]:
        """Ask the driver for a balloon of this many pages; told later while suspended."""
        self.config.num_pages = target_pages
        if self.suspended:
            self._config_change_waits = True
        else:
            yield ConfigChanged()

    def read_config(self, offset: int, length: int) -> bytes:
        """Configuration bytes for the driver; never fails."""
        self.counters.config_reads += 1
        return self.config.read(offset, length)

    def write_config(self, offset: int, data: bytes) -> Iterator[Effect]:
        """Take configuration bytes from the driver; never fails."""
        self.counters.config_writes += 1
        if self.config.write(offset, data, poison=self._poison):
            yield Emit(ActualChanged(self.config.actual_pages))

    def is_attached(self, queue: int) -> bool:
        """True while the ring may be processed."""
        return queue in self._rings

    def attach(self, queue: int, ring: DeviceRing) -> None:
        """Let a ring be processed from now on."""
        self._rings[queue] = ring

    def detach(self, queue: int) -> int | None:
        """Stop a ring: a held buffer becomes available again; returns the ring's base."""
        ring = self._rings.pop(queue, None)
        if ring is None:
            return None
        if self.roles[queue] is QueueRole.STATS and self.statistics.take_held() is not None:
            ring.un_pop()
        base = ring.base
        ring.release()
        if not self._rings:
            self.broken = None  # whoever sets the rings up again starts afresh
        return base

    def reset(self) -> None:
        """Virtio reset; rings must have been detached. The target stays."""
        self.negotiate(0)
        self.config.reset()

    def forget_guest(self) -> None:
        """The front-end is gone and its guest with it."""
        self.reset()
        self.config.forget_guest()
        self.statistics.sample = None

    def request_stats(self) -> Iterator[Effect]:
        """Ask for a fresh sample; nothing happens unless a buffer is held."""
        queue = self.roles.index(QueueRole.STATS) if QueueRole.STATS in self.roles else None
        ring = self._rings.get(queue) if queue is not None else None
        if queue is None or ring is None or self.broken:
            return
        yield from self._return_held(queue, ring)

    def process(self, queue: int, memory: BalloonMemory) -> Generator[Effect, None, None]:
        """Work off a ring until it is empty or broken."""
        if self._config_change_waits:
            self._config_change_waits = False
            yield ConfigChanged()
        ring = self._rings[queue]
        try:
            ring.disable_kicks()
            while self.broken is None:
                chain = ring.pop()
                if chain is not None:
                    yield from self._serve(queue, ring, chain, memory)
                    yield ChainDone()
                elif not ring.enable_kicks():
                    return
                else:
                    ring.disable_kicks()
        except RingError as error:
            self.broken = f"queue {queue}: {error}"
            self.counters.broken_rings += 1
            yield Emit(RingBroken(queue, str(error)))

    def _serve(
        self, queue: int, ring: DeviceRing, chain: Chain, memory: BalloonMemory
    ) -> Iterator[Effect]:
        """Everything about one chain, its answer included."""
        role = self.roles[queue]
        unreadable: str | None = None
        try:
            match role:
                case QueueRole.INFLATE:
                    yield from self._inflate(chain, memory)
                case QueueRole.DEFLATE:
                    yield from self._deflate(chain, memory)
                case QueueRole.STATS:
                    yield from self._return_held(queue, ring)
                    self._keep_stats(chain, memory)
                case _:
                    yield from self._refuse(role, "its queue is not in use")
        except GuestMemoryError as error:
            unreadable = str(error)
        except GeneratorExit:
            ring.un_pop()
            raise
        if role is QueueRole.STATS and unreadable is None:
            yield Emit(StatsReceived())
            return
        yield from _answer(queue, ring, chain.head)
        if unreadable is not None:
            yield from self._refuse(role, unreadable)

    def _inflate(self, chain: Chain, memory: BalloonMemory) -> Iterator[Effect]:
        located = yield from self._locate(QueueRole.INFLATE, chain, memory)
        for ranges in located.ranges if self.settings.discards else ():
            for part in ranges.slices(RANGES_PER_DISCARD):
                yield Discard(part)
        self.counters.inflate_messages += 1
        self.counters.inflated_pages += located.accepted_pages

    def _deflate(self, chain: Chain, memory: BalloonMemory) -> Iterator[Effect]:
        located = yield from self._locate(QueueRole.DEFLATE, chain, memory)
        self.counters.deflate_messages += 1
        self.counters.deflated_pages += located.accepted_pages

    def _locate(
        self, role: QueueRole, chain: Chain, memory: BalloonMemory
    ) -> Generator[Effect, None, Located]:
        """Read and translate a message's page numbers. Raises: GuestMemoryError."""
        if chain.readable_bytes > MESSAGE_BYTES_MAX:
            yield from self._refuse(role, f"{chain.readable_bytes} bytes are too long a message")
            return Located((), 0, 0)
        located = locate(parse_pfns(read_pieces(memory, chain.readable)), memory.table)
        if located.rejected_pages:
            self.counters.rejected_pages += located.rejected_pages
            yield Emit(PagesRejected(role, located.rejected_pages))
        return located

    def _keep_stats(self, chain: Chain, memory: BalloonMemory) -> None:
        """Hold a statistics buffer. Raises: GuestMemoryError."""
        raw = read_pieces(memory, _first_bytes(chain, STATS_BYTES_MAX))
        self.statistics.receive(chain.head, raw)

    def _return_held(self, queue: int, ring: DeviceRing) -> Iterator[Effect]:
        """Answer the held buffer, if any: before the next one, so that the order stays."""
        head = self.statistics.take_held()
        if head is not None:
            yield from _answer(queue, ring, head)

    def _refuse(self, role: QueueRole | None, reason: str) -> Iterator[Effect]:
        self.counters.refused_chains += 1
        yield Emit(ChainRefused(role, reason))


def _answer(queue: int, ring: DeviceRing, head: int) -> Iterator[Effect]:
    """Return a chain to the driver with used length 0, as all balloon queues do."""
    ring.push(head, 0)
    if ring.publish():
        yield Call(queue)


def _first_bytes(chain: Chain, limit: int) -> Iterator[tuple[int, int]]:
    """The readable pieces of a chain, cut off after `limit` bytes."""
    for gpa, length in chain.readable:
        yield gpa, min(length, limit)
        limit -= min(length, limit)
        if not limit:
            return
