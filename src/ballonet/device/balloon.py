"""The balloon device: configuration space, five queues and their timers put together.

A ring is attached while it may be served; with none attached the device stands still and says
nothing.  What happens is told to `observers`; what is to be done to the guest's memory, and said to
its driver, goes through the link that `connect` sets.  Timers are served by `tick`, which wants to
be called at `timer_ns`.
Not here: the way of a message (queues.py), what each queue's messages mean (inflation, statistics,
hint_queue, reporting), sockets, descriptors, mappings (vhost_user).
Source: VIRTIO 1.4 5.5.6; QEMU hw/virtio/virtio-balloon.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ballonet.balloon.clock import Clock, earliest
from ballonet.balloon.counters import Counters
from ballonet.balloon.discarder import Discarder
from ballonet.balloon.facts import (
    ActualChanged,
    ConfigRead,
    ConfigWritten,
    Observers,
)
from ballonet.balloon.inhibition import Inhibition, InhibitReason
from ballonet.balloon.memory import BalloonMemory
from ballonet.balloon.page_ledger import PageLedger
from ballonet.balloon.request import TargetRequest
from ballonet.device.config_announcement import ConfigAnnouncement
from ballonet.device.config_space import ConfigSpace
from ballonet.device.guest_link import GuestLink, Transport
from ballonet.device.hint_queue import HintQueue
from ballonet.device.hint_round import HINT_LEASE_S, HintRound
from ballonet.device.inflation import Inflation
from ballonet.device.queues import Queues
from ballonet.device.reporting import Reporting
from ballonet.device.statistics import Statistics
from ballonet.device.stats_polling import StatsPolling
from ballonet.virtio.config import NUM_PAGES
from ballonet.virtio.features import DEFAULT_OFFER, Feature
from ballonet.virtio.queues import QueueLayout, QueueRole, queue_roles
from ballonet.virtio.ring.chain import DeviceRing

__all__ = ["Balloon", "BalloonSettings"]


@dataclass(frozen=True, slots=True)
class BalloonSettings:
    """What is fixed for the life of a device."""

    offered: Feature = DEFAULT_OFFER
    layout: QueueLayout = QueueLayout.DENSE
    discards: bool = True  #: False: begins inhibited, requests are answered, memory is kept
    defers: bool = True  #: with MUST_TELL_HOST, answer first and drop the memory a little later
    host_page_bytes: int = 4096  #: take host pages to be at least this big
    big_endian_legacy: bool = False  #: byte order in the messages of a driver without VERSION_1


class Balloon:
    """One balloon device; for one thread."""

    def __init__(self, settings: BalloonSettings, clock: Clock) -> None:
        self.settings: Final = settings
        self._link = GuestLink()
        self.counters: Final = Counters()
        self.observers: Final = Observers()
        self.config: Final = ConfigSpace()
        self.request: Final = TargetRequest(clock)
        self.statistics: Final = Statistics(clock)
        self.inhibition: Final = Inhibition()
        self.ledger: Final = PageLedger()
        self._announcement = ConfigAnnouncement(self._link, self.request, self.observers)
        self.hint_round: Final = HintRound(clock, self.observers, self._announcement.announce)
        parts = (self.counters, self.observers)
        discarder = Discarder(self.inhibition, *parts, clock)
        self.inflation: Final = Inflation(self._link, self.ledger, discarder, *parts, clock)
        poison = self.config.poison
        self._hint_queue = HintQueue(self._link, self.hint_round, poison, *parts)
        self.reporting: Final = Reporting(self._link, discarder, poison, *parts, clock)
        self.queues: Final = Queues(
            self._link,
            self.inflation,
            self.ledger,
            self.statistics,
            {QueueRole.HINT: self._hint_queue.serve, QueueRole.REPORTING: self.reporting.serve},
            *parts,
            clock,
        )
        self.polling: Final = StatsPolling(self.statistics, self.queues)
        if not settings.discards:
            self.inhibition.inhibit(InhibitReason.OPERATOR)
        self.negotiate(0)

    @property
    def target_pages(self) -> int:
        """What the host wants in the balloon."""
        return self.config.num_pages

    @property
    def actual_pages(self) -> int:
        """What the driver says is in it."""
        return self.config.actual_pages

    @property
    def timer_ns(self) -> int | None:
        """When `tick` has work; None: only an input can change that."""
        return earliest(self.statistics.deadline_ns, self.hint_round.deadline_ns)

    def connect(self, memory: BalloonMemory, transport: Transport) -> None:
        """A guest is there; until `forget_guest`."""
        self._link.memory, self._link.transport = memory, transport

    def negotiate(self, features: int) -> None:
        """Take the driver's choice; bits that were not offered are dropped."""
        self.negotiated = self.settings.offered & features
        self.queues.roles = queue_roles(self.negotiated, self.settings.layout)
        is_legacy = not self._has(Feature.VERSION_1)
        big_endian = is_legacy and self.settings.big_endian_legacy
        self.queues.is_legacy, self.queues.big_endian = is_legacy, big_endian
        self.inflation.big_endian = self._hint_queue.big_endian = big_endian
        self.config.poison.negotiated = self._has(Feature.PAGE_POISON)
        self.inflation.must_tell_host = self._has(Feature.MUST_TELL_HOST)
        self.inflation.defers = self.inflation.must_tell_host and self.settings.defers

    def set_target(self, target_pages: int) -> None:
        """Ask the driver for a balloon of this many pages; told later while no ring runs."""
        self.config.num_pages = target_pages
        self.request.ask(target_pages, self.actual_pages)
        self._announcement.announce()

    def read_config(self, offset: int, length: int) -> bytes:
        """Configuration bytes for the driver; never fails."""
        self.counters.config_reads += 1
        if offset < NUM_PAGES.stop and offset + length >= NUM_PAGES.stop:
            self.request.read()
        data = self.config.read(offset, length, cmd_id=self.hint_round.shown_cmd_id)
        if self.observers.want_details:
            self.observers.tell_detail(ConfigRead(offset, data))
        return data

    def write_config(self, offset: int, data: bytes) -> None:
        """Take configuration bytes from the driver; never fails."""
        self.counters.config_writes += 1
        if self.observers.want_details:
            self.observers.tell_detail(ConfigWritten(offset, data))
        poison = bool(self.settings.offered & Feature.PAGE_POISON)
        if self.config.write(offset, data, poison=poison):
            self.request.moved(self.config.actual_pages)
            self.observers.tell(ActualChanged(self.config.actual_pages))

    def attach(self, queue: int, ring: DeviceRing) -> None:
        """Let a ring be served from now on."""
        is_first = self.queues.are_stopped
        self.queues.attach(queue, ring)
        self._announcement.is_held = False
        if is_first:
            self.polling.rings_run()

    def detach(self, queue: int) -> int | None:
        """Stop a ring; returns its base, None if it was not attached."""
        base = self.queues.detach(queue)
        if base is not None and self.queues.are_stopped:
            self.queues.broken = None  # whoever sets the rings up again starts afresh
            self._announcement.is_held = True
            self.polling.rings_stopped()
            self.ledger.take_back_all()
        return base

    def process(self, queue: int, end_ns: int) -> bool:
        """Serve a ring until it is empty or broken; False if the time was over before."""
        self._announcement.announce_late()
        return self.queues.process(queue, end_ns)

    def reset(self) -> None:
        """Virtio reset; rings must have been detached. The target stays."""
        self.ledger.take_back_all()
        self.negotiate(0)
        self.config.reset()
        self.statistics.reset()
        self.hint_round.reset()

    def forget_guest(self) -> None:
        """The front-end is gone and its guest with it."""
        self.reset()
        self.config.forget_guest()
        self.statistics.forget_guest()
        self._link.cut()

    def begin_hint_round(self, lease_s: float = HINT_LEASE_S) -> int | None:
        """Ask for hints, right after the dirty log was read; ends an older round.

        Returns the round's id; they arrive as PagesHinted of this id.  None: there is nobody to
        ask, because no driver runs, or it gives no hints.
        """
        if self.queues.are_stopped:
            self.hint_round.done()
            return None
        if not self._has(Feature.FREE_PAGE_HINT):
            return None
        self.hint_round.begin(lease_s)
        return self.hint_round.cmd_id

    def tick(self) -> None:
        """Serve the timers that have run out."""
        self.hint_round.end_if_expired()
        self.polling.expired()

    def _has(self, feature: Feature) -> bool:
        return bool(self.negotiated & feature)
