"""The driver: what it accepts, the order it begins in, its workers, and how it leaves.

Theory of operation.  `start` settles features, lays out the rings in guest memory, and starts a
task of the guest's kernel for each queue that has work of its own.  The device is heard through
`config_changed` and `called`; everything else happens in tasks.
Not here: what carries messages to the device (transports), what memory is (kernel).
Source: VIRTIO 1.4 5.5.5, 5.5.6; Linux virtballoon_validate, virtballoon_probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ballonet.driver.hint_worker import HintWorker
from ballonet.driver.queue import DriverQueue
from ballonet.driver.report_worker import ReportWorker
from ballonet.driver.settings import DriverSettings
from ballonet.driver.size_worker import MESSAGE_PFNS, SizeWorker
from ballonet.driver.stats_worker import STATS_BUFFER_BYTES, StatsWorker
from ballonet.driver.transport import Transport
from ballonet.errors import GuestError, RingError
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Job, Task
from ballonet.virtio.config import POISON_VAL
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueLayout, QueueRole, queue_roles
from ballonet.virtio.ring.driver import DriverRing, RingState
from ballonet.virtio.ring.notify import Fence
from ballonet.virtio.ring.packed_driver import PackedDriverRing, packed_place, packed_ring_bytes
from ballonet.virtio.ring.split_driver import SplitDriverRing, split_place, split_ring_bytes

__all__ = ["BalloonDriver", "RingInUse", "choose_features", "roles_by_number"]

#: Where in the driver's one buffer page its messages lie.
_PFNS_AT: Final = 0
_STATS_AT: Final = _PFNS_AT + 4 * MESSAGE_PFNS
_COMMANDS_AT: Final = _STATS_AT + -(-STATS_BUFFER_BYTES // 16) * 16
_BUFFER_BYTES: Final = _COMMANDS_AT + 8


def choose_features(offered: int, accepts: Feature, *, poisons: bool) -> Feature:
    """What a driver accepts of what a device offers; `poisons`: its kernel fills freed pages."""
    chosen = Feature(0)
    for bit in Feature:
        if offered & accepts & bit:
            chosen |= bit
    if not poisons:
        chosen &= ~Feature.PAGE_POISON
    elif not chosen & Feature.PAGE_POISON:
        chosen &= ~Feature.PAGE_REPORTING  # a reported page would come back without its poison
    return chosen


class RingInUse(NamedTuple):
    """A ring of a driver that has gone: where it begins, its entries, and what the driver knew."""

    gpa: int
    size: int
    state: RingState


def roles_by_number(negotiated: Feature, layout: QueueLayout) -> dict[int, QueueRole]:
    """Which number each queue has, in the order of the numbers."""
    roles = queue_roles(negotiated, layout)
    return {number: role for number, role in enumerate(roles) if role is not None}


class BalloonDriver:
    """One driver of one device."""

    def __init__(
        self, kernel: Kernel, transport: Transport, fence: Fence, settings: DriverSettings
    ) -> None:
        self.kernel: Final = kernel
        self.settings: Final = settings
        self.negotiated = Feature(0)
        self.queues: dict[QueueRole, DriverQueue] = {}
        self._transport, self._fence = transport, fence
        self._numbers: dict[int, QueueRole] = {}
        self._memory: list[tuple[int, int]] = []  # of buffers and rings: address and bytes
        self._tasks: list[Task] = []
        self.size: SizeWorker
        self.stats: StatsWorker | None = None
        self.hints: HintWorker | None = None
        self.reports: ReportWorker | None = None

    def start(self) -> None:
        """Take the device into use. Raises: GuestError, if it does not let itself be used."""
        self._begin()
        self.size.wake()

    def resume(self, negotiated: Feature, buffers_gpa: int, rings: Sequence[RingInUse]) -> None:
        """Go on with buffers and rings that another driver had in this guest's memory.

        The device is told of the rings, and nothing else; workers remember nothing yet.
        Raises: RingError, if that cannot be; GuestMemoryError.
        """
        self.negotiated = negotiated
        self._memory = [(buffers_gpa, _BUFFER_BYTES)]
        self._memory += [(use.gpa, self._ring_bytes(use.size)) for use in rings]
        self._check_memory()
        self._numbers = roles_by_number(negotiated, self.settings.layout)
        queues = {}
        for (number, role), use in zip(self._numbers.items(), rings, strict=True):
            ring = self._ring_at(use.gpa, use.size)
            ring.restore(use.state)
            queues[role] = DriverQueue(number, ring, self._transport)
        self.queues = queues
        for queue in self.queues.values():
            self._transport.set_queue(queue.number, queue.ring)
        self._start_workers(buffers_gpa, is_new=False)

    def accept_again(self) -> None:
        """Settle with the device on the features that are in use. Raises: GuestError."""
        missing = self.negotiated & ~Feature(self._transport.offered() & int(self.negotiated))
        if missing or not all(map(self._transport.queue_size, self._numbers)):
            raise GuestError(f"the device lacks features {int(missing):#x} or queues of this guest")
        self._transport.accept(self.negotiated)

    def go_on(self) -> None:
        """Let the device begin with rings that are in use. Raises: GuestError."""
        self._transport.driver_ok()
        self.reconnected()
        for queue in self.queues.values():
            self._transport.kick(queue.number)
            queue.called.set()

    @property
    def memory(self) -> list[tuple[int, int]]:
        """Address and bytes of the buffers, and then of each ring in the order of its number."""
        return list(self._memory)

    def config_changed(self) -> None:
        """The device's configuration is not what it was; what changed is not told."""
        self.size.wake()
        if self.hints is not None:
            self.hints.wake()

    def reconnected(self) -> None:
        """Another device goes on with the same rings: tell it what only the driver knows."""
        self._write_poison()
        self.size.write_actual()
        self.config_changed()

    def called(self, queue: int) -> None:
        """The device has used chains of a queue."""
        role = self._numbers.get(queue)
        if role is not None:
            self.queues[role].called.set()

    def freeze(self) -> Job[None]:
        """Empty the balloon and let go of the device, as before hibernation."""
        yield from self._leave()

    def restore(self) -> Job[None]:
        """Take the device into use again after `freeze`; everything is told anew."""
        self._begin()
        self.size.write_actual()
        self.config_changed()
        yield None

    def remove(self) -> Job[None]:
        """Empty the balloon and forget the device."""
        yield from self._leave()

    def _begin(self) -> None:
        """Features, queues, poison, and then DRIVER_OK: in the specification's order."""
        self._transport.reset()
        self._settle_features()
        buffers = self._allocate(_BUFFER_BYTES)
        self._numbers = roles_by_number(self.negotiated, self.settings.layout)
        self.queues = {
            role: DriverQueue(number, self._make_ring(number, role), self._transport)
            for number, role in self._numbers.items()
        }
        for queue in self.queues.values():
            self._transport.set_queue(queue.number, queue.ring)
        self._write_poison()
        self._transport.driver_ok()
        self._start_workers(buffers, is_new=True)

    def _write_poison(self) -> None:
        if self.negotiated & Feature.PAGE_POISON:
            poison = self.kernel.settings.poison or 0
            self._transport.write_config(POISON_VAL.start, bytes([poison] * 4))

    def _settle_features(self) -> None:
        self.negotiated = choose_features(
            self._transport.offered(),
            self.settings.accepts,
            poisons=self.kernel.settings.poison is not None,
        )
        self._transport.accept(self.negotiated)

    def _start_workers(self, buffers: int, *, is_new: bool) -> None:
        kernel, queues = self.kernel, self.queues
        is_oom = bool(self.negotiated & Feature.DEFLATE_ON_OOM)
        self.size = SizeWorker(
            kernel,
            self._transport,
            (queues[QueueRole.INFLATE], queues[QueueRole.DEFLATE]),
            buffers + _PFNS_AT,
            hides_pages=not is_oom,
        )
        self._spawn("balloon size", self.size.run())
        kernel.compaction.move_balloon_page = self.size.move
        if is_oom:
            kernel.oom_notifiers.append(self.size.notify_oom)
        if QueueRole.STATS in queues:
            self.stats = StatsWorker(kernel, queues[QueueRole.STATS], buffers + _STATS_AT)
            self._spawn("balloon stats", self.stats.run())
        if QueueRole.HINT in queues:
            self.hints = HintWorker(
                kernel,
                self._transport,
                queues[QueueRole.HINT],
                buffers + _COMMANDS_AT,
                self.settings.hint_order,
            )
            kernel.shrinkers.append(self.hints.release_blocks)
            if is_new:
                queues[QueueRole.HINT].ring.disable_calls()
            self._spawn("balloon hints", self.hints.run())
        if QueueRole.REPORTING in queues:
            self.reports = ReportWorker(queues[QueueRole.REPORTING], kernel.page_bytes)
            reporting = kernel.reporting
            (reporting.start if is_new else reporting.resume)(self.reports.report)

    def _leave(self) -> Job[None]:
        """The other way round: stop asking, empty the balloon, reset, free the rings."""
        kernel = self.kernel
        if self.reports is not None:
            yield from kernel.reporting.stop()
            self.reports = None
        if self.size.notify_oom in kernel.oom_notifiers:
            kernel.oom_notifiers.remove(self.size.notify_oom)
        yield from self.size.stop()
        yield from self.size.leak_all()
        kernel.compaction.move_balloon_page = None
        if self.hints is not None:
            kernel.shrinkers.remove(self.hints.release_blocks)
            self.hints.release_blocks()
        self._transport.reset()
        for task in self._tasks:
            task.kill()
        if self.hints is not None:
            self.hints.release_blocks()
            self.hints = None
        self.stats = None
        self._tasks.clear()
        self._numbers.clear()
        for queue in self.queues.values():
            queue.ring.release()
        self.queues.clear()
        for gpa, size in self._memory:
            kernel.free_kernel(gpa, size)
        self._memory.clear()

    def _make_ring(self, number: int, role: QueueRole) -> DriverRing:
        size = self._transport.queue_size(number)
        if not size or (role is QueueRole.HINT and size < 2):
            raise GuestError(f"the device has no {role.name.lower()} queue at number {number}")
        return self._ring_at(self._allocate(self._ring_bytes(size)), size)

    def _check_memory(self) -> None:
        """Buffers and rings lie apart, in frames of the kernel. Raises: RingError."""
        page, use = self.kernel.page_bytes, self.kernel.table.use
        reach = 0
        for gpa, size in sorted(self._memory):
            end = gpa + self.kernel.memory.block_bytes(size)
            if gpa % page or gpa < reach or end > use.size * page:
                raise RingError(f"{size} bytes at {gpa:#x} cannot be a ring or buffers")
            if (use[gpa // page : end // page] != Use.KERNEL).any():
                raise RingError(f"{size} bytes at {gpa:#x} are not the kernel's")
            reach = end

    def _ring_bytes(self, size: int) -> int:
        if self.negotiated & Feature.RING_PACKED:
            return packed_ring_bytes(size)
        return split_ring_bytes(size, self._transport.used_align)

    def _ring_at(self, gpa: int, size: int) -> DriverRing:
        memory, event_idx = self.kernel.memory, bool(self.negotiated & Feature.EVENT_IDX)
        if self.negotiated & Feature.RING_PACKED:
            return PackedDriverRing(
                memory, packed_place(gpa, size), size, self._fence, event_idx=event_idx
            )
        place = split_place(gpa, size, self._transport.used_align)
        return SplitDriverRing(memory, place, size, self._fence, event_idx=event_idx)

    def _allocate(self, size: int) -> int:
        gpa = self.kernel.allocate_kernel(size)
        self._memory.append((gpa, size))
        return gpa

    def _spawn(self, name: str, job: Job[None]) -> None:
        self._tasks.append(self.kernel.scheduler.spawn(name, job))
