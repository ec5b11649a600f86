"""Our Hyper-V driver and our host, joined in one process: rings of a few messages, time by hand.

As with virtio's pair neither acts by itself, and the host's discards really empty the memory, so a
page that is dropped while the guest uses it is found by its marks.
"""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable

from tests.support.clock import FakeClock
from tests.support.hyperv_wire import Wire
from tests.support.pair import MIB, DeviceMemory

from ballonet.balloon.facts import Fact
from ballonet.hyperv.driver import DriverState, HypervDriver
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.settings import HypervDriverSettings, HypervHostSettings
from ballonet.kernel.frames import Frames, Use
from ballonet.kernel.kernel import Kernel, KernelSettings
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Job, Scheduler
from ballonet.memory.runs import DiscardResult, Ranges

AT_ONCE = HypervHostSettings(post_init_wait_ns=0, status_report=True)
TALKATIVE = HypervDriverSettings(pressure_report_delay=0)


class Ring:
    """Messages on their way, few at a time."""

    def __init__(self, room: int, sent: Callable[[bytes], None]) -> None:
        self.room = room
        self.waiting: deque[bytes] = deque()
        self._sent = sent

    def send(self, message: bytes) -> bool:
        if len(self.waiting) >= self.room:
            return False
        self.waiting.append(message)
        self._sent(message)
        return True


class WatchedMemory(DeviceMemory):
    """Really empties what is dropped, if the host may drop it."""

    wire: Wire

    def discard(self, ranges: Ranges) -> DiscardResult:
        self.wire.check_drop(ranges)
        return super().discard(ranges)


class HypervPair:
    """Kernel, driver and host."""

    def __init__(
        self,
        memory_bytes: int = 64 * MIB,
        host: HypervHostSettings = AT_ONCE,
        driver: HypervDriverSettings = TALKATIVE,
        kernel: KernelSettings = KernelSettings(),  # noqa: B008 - immutable
        *,
        page_bytes: int = 4096,
        host_page_bytes: int = 4096,
        room: int = 4,
    ) -> None:
        fd = os.memfd_create("pair", os.MFD_CLOEXEC)
        os.ftruncate(fd, memory_bytes)
        self.memory, of_host = (memoryview(mmap.mmap(fd, memory_bytes)) for _ in range(2))
        os.close(fd)
        self.clock = FakeClock()
        self.scheduler = Scheduler(self.clock.now_ns())
        guest_bytes = memory_bytes - host.extra_bytes
        physical = PhysicalMemory([MemoryPiece(0, self.memory[:guest_bytes])], page_bytes)
        self.kernel = Kernel(physical, self.scheduler, kernel)
        self.host_memory = WatchedMemory(of_host, host_page_bytes)
        self.wire = self.host_memory.wire = Wire(self.host_memory.table, memory_bytes // 4096)
        self.to_guest = Ring(room, self.wire.host_said)
        self.to_host = Ring(room, lambda _: None)
        self.host = HypervHost(self.clock, host, self.to_guest.send)
        self.facts: list[Fact] = []
        self.host.given.observers.add(self.facts.append)
        self.driver_settings = driver
        self.driver = HypervDriver(self.kernel, self.to_host.send, driver)

    def start(self) -> None:
        """Open the channel, and let both come to terms."""
        self.host.attach(self.host_memory)
        self.driver.start()
        self.run()
        assert self.driver.state is DriverState.INITIALIZED

    def reopen(self) -> None:
        """The driver stops, and another one opens the channel; pages stay where they are."""
        self.do(self.driver.stop())
        self.host.detach()
        self.wire.given.clear()
        self.to_guest.waiting.clear()
        self.to_host.waiting.clear()
        self.driver = HypervDriver(self.kernel, self.to_host.send, self.driver_settings)
        self.start()

    def step_host(self) -> bool:
        """Let the host hear one message; False if there was none."""
        if not self.to_host.waiting:
            return False
        raw = self.to_host.waiting.popleft()
        self.wire.host_heard(raw)
        self.host.received(raw)
        return True

    def hear(self) -> bool:
        """Let the guest hear one message; False if there was none."""
        if not self.to_guest.waiting:
            return False
        self.driver.received(self.to_guest.waiting.popleft())
        return True

    def run_guest(self, steps: int = 1 << 20) -> bool:
        return self.scheduler.run(self.clock.now_ns(), steps)

    def run(self, seconds: float = 0.0) -> None:
        """Both sides until nothing moves, for so long."""
        end = self.clock.now_ns() + int(seconds * 1e9)
        while True:
            busy = True
            while busy:
                busy = self.run_guest(2000)
                busy |= self.hear() | self.step_host()
                busy |= self._is_due() and self.host.expired(busy=busy)
            due = min(
                (
                    one
                    for one in (self.scheduler.deadline_ns, self.host.deadline_ns)
                    if one is not None
                ),
                default=None,
            )
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

    def balloon_frames(self) -> Frames:
        """Frames that the guest's kernel has in its balloon."""
        return self.kernel.table.used_as(Use.BALLOON)

    def _is_due(self) -> bool:
        deadline_ns = self.host.deadline_ns
        return deadline_ns is not None and deadline_ns <= self.clock.now_ns()
