"""The balloon device: configuration space and the five queues put together.

Theory of operation.  A ring is attached while it may be processed; with none attached the device
is suspended and says nothing.  `process` is a generator: it pops a chain, yields what must happen,
and answers the chain only when asked for the next effect, so a page is always discarded before
the guest may use it again.  Closing it half-way makes the chain available again.  Timers are
served by `tick`, which wants to be called at `deadline_ns`.
Not here: sockets, descriptors, mappings (vhost_user), what a queue's messages mean (inflation,
statistics, hint_round, reporting).
Source: VIRTIO 1.4 5.5.6; QEMU hw/virtio/virtio-balloon.c.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final

from ballonet.balloon.page_ledger import PageLedger
from ballonet.device.clock import Clock, earliest
from ballonet.device.config_space import ConfigSpace
from ballonet.device.counters import Counters
from ballonet.device.effects import (
    ActualChanged,
    Call,
    ChainDone,
    ChainRefused,
    ConfigChanged,
    Effect,
    Emit,
    RingBroken,
    StatsReceived,
)
from ballonet.device.hint_queue import HintQueue
from ballonet.device.hint_round import HINT_LEASE_S, HintRound
from ballonet.device.inflation import BalloonMemory, Inflation
from ballonet.device.inhibition import Inhibition, InhibitReason
from ballonet.device.reporting import Reporting
from ballonet.device.request import Stage, TargetRequest
from ballonet.device.state import DeviceState
from ballonet.device.statistics import Statistics, StatsDiagnosis
from ballonet.errors import GuestMemoryError, RingError
from ballonet.virtio.config import NUM_PAGES
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES, Feature
from ballonet.virtio.queues import QueueLayout, QueueRole, queue_roles
from ballonet.virtio.ring.chain import Chain, DeviceRing, read_pieces
from ballonet.virtio.stats import STATS_BYTES_MAX

__all__ = ["DEFAULT_OFFER", "Balloon", "BalloonMemory", "BalloonSettings"]

#: What a device offers unless told otherwise: everything but what changes how the guest accounts
#: for its memory (DEFLATE_ON_OOM), or makes it busy without being asked (PAGE_REPORTING).
DEFAULT_OFFER: Final = RING_FEATURES | (
    BALLOON_FEATURES & ~(Feature.DEFLATE_ON_OOM | Feature.PAGE_REPORTING)
)


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
    """One balloon device; inputs in, effects out."""

    def __init__(self, settings: BalloonSettings, clock: Clock) -> None:
        self.settings: Final = settings
        self._clock = clock
        self.counters: Final = Counters()
        self.config: Final = ConfigSpace()
        self.statistics: Final = Statistics(clock)
        self.hint_round: Final = HintRound(clock)
        self.inhibition: Final = Inhibition(self.counters)
        self.ledger: Final = PageLedger()
        self._inflation = Inflation(
            self.counters, self.inhibition, self.ledger, clock, settings.defers
        )
        self._hint_queue = HintQueue(self.counters, self.hint_round)
        self.reporting: Final = Reporting(self.counters, self.inhibition, clock)
        self.request: Final = TargetRequest(clock)
        self.paused = False  #: by the operator: time stands still for statistics
        self.broken: str | None = None  #: why the device stands still, until it is set up anew
        self._rings: dict[int, DeviceRing] = {}
        self._config_change_waits = False
        if not settings.discards:
            self.inhibition.inhibit(InhibitReason.OPERATOR)
        self.negotiate(0)

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

    @property
    def deadline_ns(self) -> int | None:
        """When `tick` has something to do; None: only an input can change that."""
        return earliest(
            self.statistics.deadline_ns, self.hint_round.deadline_ns, self.ledger.deadline_ns
        )

    @property
    def stats_diagnosis(self) -> StatsDiagnosis:
        """Why there are statistics, or none."""
        if self.suspended:
            return StatsDiagnosis.NO_DRIVER
        return self.statistics.diagnosis(negotiated=self._has(Feature.STATS_VQ))

    @property
    def stage(self) -> Stage:
        """What the newest change of the target waits for."""
        return self.request.stage(self.actual_pages, running=not self.suspended)

    @property
    def allows_free_page_discard(self) -> bool:
        """A page the guest calls free may be replaced by a zero page."""
        return self.config.poison.allows_discard(negotiated=self._has(Feature.PAGE_POISON))

    def negotiate(self, features: int) -> None:
        """Take the driver's choice; bits that were not offered are dropped."""
        self.negotiated = self.settings.offered & features
        self.roles = queue_roles(self.negotiated, self.settings.layout)
        self._is_legacy = not self._has(Feature.VERSION_1)
        self._big_endian = self._is_legacy and self.settings.big_endian_legacy
        self._inflation.big_endian = self._big_endian

    def set_target(self, target_pages: int) -> Iterator[Effect]:
        """Ask the driver for a balloon of this many pages; told later while suspended."""
        self.config.num_pages = target_pages
        self.request.ask(target_pages, self.actual_pages)
        yield from self._tell(iter((ConfigChanged(),)))

    def read_config(self, offset: int, length: int) -> bytes:
        """Configuration bytes for the driver; never fails."""
        self.counters.config_reads += 1
        if offset < NUM_PAGES.stop and offset + length >= NUM_PAGES.stop:
            self.request.read()
        return self.config.read(offset, length, cmd_id=self.hint_round.shown_cmd_id)

    def write_config(self, offset: int, data: bytes) -> Iterator[Effect]:
        """Take configuration bytes from the driver; never fails."""
        self.counters.config_writes += 1
        poison = bool(self.settings.offered & Feature.PAGE_POISON)
        if self.config.write(offset, data, poison=poison):
            self.request.moved(self.config.actual_pages)
            yield Emit(ActualChanged(self.config.actual_pages))

    def is_attached(self, queue: int) -> bool:
        """True while the ring may be processed."""
        return queue in self._rings

    def attach(self, queue: int, ring: DeviceRing) -> None:
        """Let a ring be processed from now on."""
        was_suspended = self.suspended
        self._rings[queue] = ring
        if was_suspended and not self.paused:
            self.statistics.resume()

    def detach(self, queue: int) -> int | None:
        """Stop a ring: a held buffer becomes available again; returns the ring's base."""
        ring = self._rings.pop(queue, None)
        if ring is None:
            return None
        if self.roles[queue] is QueueRole.STATS and self.statistics.un_pop():
            ring.un_pop()
        base = ring.base
        ring.release()
        if self.suspended:
            self.broken = None  # whoever sets the rings up again starts afresh
            self.statistics.suspend()
            self.statistics.expect_first()
            self.ledger.take_back_all()
        return base

    def drain(self) -> Iterator[Effect]:
        """Drop now what waits; before rings stop, memory changes, or somebody counts."""
        yield from self.sort_waiting()
        while (ranges := self.ledger.step()) is not None:
            yield from self.inhibition.discard([ranges])

    def wants_discard(self, *, busy: bool) -> bool:
        """It is time to drop what waits; `busy`: the guest has something else for the device."""
        now_ns = self._clock.now_ns()
        return self.ledger.is_overdue(now_ns) or (not busy and self.ledger.is_due(now_ns))

    def discard_waiting(self) -> Iterator[Effect]:
        """Drop a little of what waits."""
        yield from self.sort_waiting()
        ranges = self.ledger.step()
        if ranges is not None:
            yield from self.inhibition.discard([ranges])

    def sort_waiting(self) -> Iterator[Effect]:
        """Count now what waits; before somebody looks."""
        yield from self._inflation.sort()

    def reset(self) -> None:
        """Virtio reset; rings must have been detached. The target stays."""
        self.ledger.take_back_all()
        self.negotiate(0)
        self.config.reset()
        self.statistics.reset()
        self.hint_round.reset()

    def save(self) -> DeviceState:
        """What a device in another process needs to go on with the same guest."""
        return DeviceState(
            self.target_pages,
            self.config.kept_actual_pages,
            self.config.poison.value if self.config.poison.is_known else None,
            self.hint_round.cmd_id,
            self.statistics.poll_interval_s,
        )

    def restore(self, state: DeviceState) -> None:
        """Go on where another device stopped; before a front-end comes."""
        self.config.num_pages = state.target_pages
        self.config.restore_actual(state.actual_pages)
        if state.target_pages != state.actual_pages:  # the change goes on
            self.request.ask(state.target_pages, state.actual_pages)
        if state.poison_val is not None:
            self.config.poison.write(state.poison_val, alone=True)
        self.hint_round.cmd_id = state.cmd_id
        self.statistics.set_poll_interval(state.poll_interval_s)

    def forget_guest(self) -> None:
        """The front-end is gone and its guest with it."""
        self.reset()
        self.config.forget_guest()
        self.statistics.forget_guest()

    def request_stats(self) -> Iterator[Effect]:
        """Ask for a fresh sample; nothing happens unless a buffer is held."""
        queue = self._queue_of(QueueRole.STATS)
        ring = None if queue is None else self._rings.get(queue)
        if queue is None or ring is None or self.broken:
            return
        head = self.statistics.ask()
        if head is not None:
            yield from _answer(queue, ring, head)

    def begin_hint_round(self, lease_s: float = HINT_LEASE_S) -> Iterator[Effect]:
        """Ask for hints, right after the dirty log was read; ends an older round.

        They arrive as PagesHinted. Without a running driver there is nobody to ask: done.
        """
        if self.suspended:
            yield from self.finish_hints()
        elif self._has(Feature.FREE_PAGE_HINT):
            yield from self._tell(self.hint_round.begin(lease_s))

    def stop_hint_round(self, lease_s: float = HINT_LEASE_S) -> Iterator[Effect]:
        """End the round, right before the dirty log is read again."""
        yield from self._tell(self.hint_round.stop(lease_s))

    def finish_hints(self) -> Iterator[Effect]:
        """The migration is over, however it went: the driver may take its pages back."""
        yield from self._tell(self.hint_round.done())

    def pause(self) -> None:
        """Let time stand still for the statistics, as it does for a stopped VM."""
        self.paused = True
        self.statistics.suspend()

    def unpause(self) -> None:
        """Let time go on."""
        self.paused = False
        if not self.suspended:
            self.statistics.resume()

    def tick(self) -> Iterator[Effect]:
        """Serve the timers that have run out."""
        if self.hint_round.expired():
            yield from self.finish_hints()
        if self.statistics.expired():
            yield from self.request_stats()

    def process(self, queue: int, memory: BalloonMemory) -> Generator[Effect, None, None]:
        """Work off a ring until it is empty or broken."""
        if self._config_change_waits:
            self._config_change_waits = False
            self.request.sent()
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
        is_held, unreadable = False, None
        try:
            if role is QueueRole.STATS and not chain.is_cut:
                is_held = yield from self._receive_stats(queue, ring, chain, memory)
            else:
                yield from self._obey(role, chain, memory)
        except GuestMemoryError as error:
            unreadable = str(error)
        except GeneratorExit:
            ring.un_pop()
            raise
        if is_held:
            yield Emit(StatsReceived())
            return
        yield from _answer(queue, ring, chain.head)
        if unreadable is not None:
            yield from self._refuse(role, unreadable)

    def _obey(
        self, role: QueueRole | None, chain: Chain, memory: BalloonMemory
    ) -> Iterator[Effect]:
        """Do what a chain asks for, short of answering it. Raises: GuestMemoryError, RingError."""
        match role:
            case _ if chain.is_cut and role is not QueueRole.DEFLATE:
                yield from self._refuse(role, "its list of descriptors is too long")
            case QueueRole.INFLATE:
                told = self._has(Feature.MUST_TELL_HOST)
                yield from self._inflation.inflate(chain, memory, must_tell_host=told)
            case QueueRole.DEFLATE:
                yield from self._inflation.deflate(chain, memory)
            case QueueRole.HINT:
                yield from self._hint_queue.serve(
                    chain,
                    memory,
                    may_use=self.allows_free_page_discard,
                    big_endian=self._big_endian,
                )
            case QueueRole.REPORTING:
                may_discard = self.allows_free_page_discard
                yield from self.reporting.serve(chain, memory, may_discard=may_discard)
            case _:
                yield from self._refuse(role, "its queue is not in use")

    def _receive_stats(
        self, queue: int, ring: DeviceRing, chain: Chain, memory: BalloonMemory
    ) -> Generator[Effect, None, bool]:
        """Return the held buffer, if any, so that the order stays; then hold this one: True.

        Raises: GuestMemoryError.
        """
        held = self.statistics.take_held()
        if held is not None:
            yield from _answer(queue, ring, held)
        raw = read_pieces(memory, _first_bytes(chain, STATS_BYTES_MAX))
        legacy, big_endian = self._is_legacy, self._big_endian
        self.statistics.receive(chain.head, raw, legacy=legacy, big_endian=big_endian)
        self.counters.stats_messages += 1
        return True

    def _tell(self, effects: Iterator[Effect]) -> Iterator[Effect]:
        """Pass effects on; a config change waits until the device is no longer suspended."""
        for effect in effects:
            if not isinstance(effect, ConfigChanged):
                yield effect
            elif self.suspended:
                self._config_change_waits = True
            else:
                self.request.sent()
                yield effect

    def _queue_of(self, role: QueueRole) -> int | None:
        return self.roles.index(role) if role in self.roles else None

    def _has(self, feature: Feature) -> bool:
        return bool(self.negotiated & feature)

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
