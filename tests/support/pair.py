"""Our driver and our device, joined in one process: no sockets, no threads, time by hand.

Neither acts by itself: `step` lets one side go on, so a test decides every interleaving.  Discards
really empty the memory, so a page that is dropped while the guest uses it is found by its marks.
"""

from __future__ import annotations

import mmap
import os

import numpy as np
from tests.support.clock import FakeClock

from ballonet.balloon.facts import Fact
from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.driver.balloon_driver import BalloonDriver
from ballonet.driver.settings import DriverSettings
from ballonet.kernel.kernel import Kernel, KernelSettings
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Job, Scheduler
from ballonet.kernel.workloads import Programs
from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import DiscardResult, Ranges
from ballonet.virtio.features import Feature
from ballonet.virtio.ring.chain import DeviceRing
from ballonet.virtio.ring.driver import DriverRing
from ballonet.virtio.ring.packed import PackedAreas, PackedRing, packed_area_bytes
from ballonet.virtio.ring.split import SplitAreas, SplitRing, split_area_bytes

MIB = 1 << 20
RING = 64


def no_fence() -> None:
    """One process, one thread: nothing is ever out of order."""


class DeviceMemory:
    """Guest memory as the device sees it."""

    def __init__(self, memory: memoryview, page_bytes: int) -> None:
        self.table = RegionTable([Region(0, len(memory), 1 << 40, 0, page_bytes)])
        self._memory = memory
        self.discarded_bytes = 0

    def view(self, gpa: int, length: int) -> memoryview:
        self.table.find(gpa, length)
        return self._memory[gpa : gpa + length]

    def discard(self, ranges: Ranges) -> DiscardResult:
        for offset, length in zip(ranges.offsets.tolist(), ranges.lengths.tolist(), strict=True):
            np.frombuffer(self._memory, np.uint8)[offset : offset + length] = 0
            self.discarded_bytes += length
        return DiscardResult(calls=1, discarded_bytes=ranges.total_bytes)


class PairTransport:
    """The driver's way to a device beside it; a `Transport`."""

    def __init__(self, pair: Pair, *, used_align: int = 4) -> None:
        self._pair = pair
        self._rings: dict[int, DriverRing] = {}
        self.used_align = used_align

    def reset(self) -> None:
        self._pair.stop_device()
        self._pair.device.reset()
        self._rings.clear()

    def offered(self) -> int:
        return int(self._pair.device.settings.offered)

    def accept(self, features: int) -> None:
        self._pair.device.negotiate(features)

    def queue_size(self, queue: int) -> int:
        return RING if queue < 5 else 0

    def set_queue(self, queue: int, ring: DriverRing) -> None:
        self._rings[queue] = ring

    def driver_ok(self) -> None:
        for queue, ring in self._rings.items():
            self._pair.attach(queue, ring, base=ring.base)

    def reconnect(self) -> None:
        """As a front-end that lost its back-end: every ring goes on where it was used last."""
        self._pair.device.negotiate(int(self._pair.driver.negotiated))
        for queue, ring in self._rings.items():
            self._pair.attach(queue, ring, base=ring.base)

    def read_config(self, offset: int, length: int) -> bytes:
        return self._pair.device.read_config(offset, length)

    def write_config(self, offset: int, data: bytes) -> None:
        self._pair.device.write_config(offset, data)

    def kick(self, queue: int) -> None:
        self._pair.kicked.add(queue)


class Pair:
    """Kernel, driver and device."""

    def __init__(
        self,
        memory_bytes: int = 64 * MIB,
        balloon: BalloonSettings = BalloonSettings(),  # noqa: B008 - immutable
        driver: DriverSettings = DriverSettings(),  # noqa: B008 - immutable
        kernel: KernelSettings = KernelSettings(),  # noqa: B008 - immutable
        page_bytes: int = 4096,
        *,
        boots: bool = True,
    ) -> None:
        fd = os.memfd_create("pair", os.MFD_CLOEXEC)
        os.ftruncate(fd, memory_bytes)
        # Guest and device are two processes outside of tests: each has a mapping of its own.
        self.memory, of_device = (memoryview(mmap.mmap(fd, memory_bytes)) for _ in range(2))
        os.close(fd)
        self.clock = FakeClock()
        self.scheduler = Scheduler(self.clock.now_ns())
        physical = PhysicalMemory([MemoryPiece(0, self.memory)], page_bytes)
        self.kernel = Kernel(physical, self.scheduler, kernel, boots=boots)
        self.programs = Programs(self.kernel)
        self.device = Balloon(balloon, self.clock)
        self.device_memory = DeviceMemory(of_device, balloon.host_page_bytes)
        self.events: list[Fact] = []
        self.rejoin()
        self.kicked: set[int] = set()
        self._calls: set[int] = set()
        self._config_changed = False
        self.transport = PairTransport(self)
        self.driver = BalloonDriver(self.kernel, self.transport, no_fence, driver)

    def rejoin(self) -> None:
        """The device, which may be a new one, has this guest."""
        self.device.observers.add(self.events.append)
        self.device.connect(self.device_memory, self)

    def attach(self, queue: int, ring: DriverRing, base: int) -> None:
        self.device.attach(queue, self._device_ring(ring, base))
        self.kicked.add(queue)

    def stop_device(self) -> None:
        for queue in range(5):
            self.device.detach(queue)
        self.kicked.clear()

    def device_can_go_on(self) -> list[int]:
        return sorted(self.kicked)

    def step_device(self, queue: int) -> None:
        """The smallest piece of work on one queue."""
        if not self.device.queues.is_attached(queue) or self.device.process(queue, 0):
            self.kicked.discard(queue)

    def call(self, queue: int) -> None:
        """The device's way to its driver; a `Transport`."""
        self._calls.add(queue)

    def config_changed(self) -> None:
        self._config_changed = True

    def discard_waiting(self) -> None:
        """A step of what waits in the device, whether it is time or not."""
        self.device.inflation.discard_waiting()

    def run_device(self) -> None:
        """Everything the device can do now."""
        while queues := self.device_can_go_on():
            for queue in queues:
                self.step_device(queue)
        if self.device.inflation.wants_discard(busy=False):
            self.device.inflation.discard_waiting()
        timer_ns = self.device.timer_ns
        if timer_ns is not None and timer_ns <= self.clock.now_ns():
            self.device.tick()

    def run_guest(self, steps: int = 1 << 20) -> bool:
        """Let the guest hear what it was told, and go on."""
        calls, self._calls = self._calls, set()
        for queue in calls:
            self.driver.called(queue)
        if self._config_changed:
            self._config_changed = False
            self.driver.config_changed()
        return self.scheduler.run(self.clock.now_ns(), steps)

    def run(self, seconds: float = 0.0) -> None:
        """Both sides until nothing moves, for so long."""
        end = self.clock.now_ns() + int(seconds * 1e9)
        while True:
            busy = True
            while busy:
                busy = self.run_guest(2000)
                self.run_device()
                busy |= bool(self._calls or self._config_changed or self.kicked)
            waits = [
                self.scheduler.deadline_ns,
                self.device.timer_ns,
                self.device.ledger.deadline_ns,
            ]
            due = min((one for one in waits if one is not None), default=None)
            if due is None or due > end:
                self.clock.advance_ns(max(0, end - self.clock.now_ns()))
                return
            self.clock.advance_ns(max(0, due - self.clock.now_ns()))

    def do(self, job: Job[object], seconds: float = 60.0) -> object:
        """Run a job of the guest to its end."""
        result: list[object] = []

        def top() -> Job[None]:
            result.append((yield from job))

        task = self.scheduler.spawn("test", top())
        for _ in range(int(seconds * 10)):
            self.run(0.1)
            if task.done.is_set:
                return result[0] if result else None
        raise AssertionError("the job does not end")

    def set_target(self, pages: int) -> None:
        self.device.set_target(pages)

    def _device_ring(self, ring: DriverRing, base: int) -> DeviceRing:
        event_idx = bool(self.driver.negotiated & Feature.EVENT_IDX)
        view, place = self.device_memory.view, ring.place
        if self.driver.negotiated & Feature.RING_PACKED:
            sizes = packed_area_bytes(ring.size)
            packed = PackedAreas(*(view(at, n) for at, n in zip(place, sizes, strict=True)))
            return PackedRing(
                packed,
                self.device_memory,
                no_fence,
                base=base,
                event_idx=event_idx,
                indirect=False,
            )
        sizes = split_area_bytes(ring.size)
        split = SplitAreas(*(view(at, n) for at, n in zip(place, sizes, strict=True)))
        return SplitRing(
            split,
            self.device_memory,
            no_fence,
            base=base,
            event_idx=event_idx,
            indirect=False,
        )
