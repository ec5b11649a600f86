"""VMware's host and our driver for it, joined in one process: no sockets, no threads, time by hand.

Calls may be slow: then a test decides when the next one is answered, and what happens before.
The host's discards really empty the memory, as in pair.py.
"""

from __future__ import annotations

import mmap
import os
from collections import deque

from tests.support.clock import FakeClock
from tests.support.pair import MIB, DeviceMemory

from ballonet.balloon.facts import Fact
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import Kernel, KernelSettings
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Flag, Job, Scheduler
from ballonet.vmware.balloon_frames import frames_of
from ballonet.vmware.calls import HUGE_PAGES, Answer, Call
from ballonet.vmware.driver import VmwareDriver, VmwareDriverSettings
from ballonet.vmware.host import VmwareHost, VmwareHostSettings

__all__ = ["MIB", "VmwarePair"]


class VmwarePair:
    """Kernel, driver and host; with `is_slow`, calls wait for `answer_one`."""

    def __init__(
        self,
        memory_bytes: int = 64 * MIB,
        host: VmwareHostSettings = VmwareHostSettings(),  # noqa: B008 - immutable
        driver: VmwareDriverSettings = VmwareDriverSettings(),  # noqa: B008 - immutable
        kernel: KernelSettings = KernelSettings(),  # noqa: B008 - immutable
        *,
        has_doorbell: bool = True,
        host_page_bytes: int = 4096,
    ) -> None:
        fd = os.memfd_create("pair", os.MFD_CLOEXEC)
        os.ftruncate(fd, memory_bytes)
        # Guest and host are two processes outside of tests: each has a mapping of its own.
        self.memory, of_host = (memoryview(mmap.mmap(fd, memory_bytes)) for _ in range(2))
        os.close(fd)
        self.clock = FakeClock()
        self.settings, self._kernel_settings = driver, kernel
        self.host_memory = DeviceMemory(of_host, host_page_bytes)
        self.rings: list[tuple[int, int]] = []
        self.host = VmwareHost(self.clock, host, ring_doorbell=self._ring if has_doorbell else None)
        self.facts: list[Fact] = []
        self.host.given.observers.add(self.facts.append, details=True)
        self.calls: list[Call] = []
        self.is_slow = False
        self.boot()

    def boot(self) -> None:
        """The guest comes, or is reset: nothing is left of the one before but its memory."""
        self.host.detach()
        self.scheduler = Scheduler(self.clock.now_ns())
        physical = PhysicalMemory([MemoryPiece(0, self.memory)], 4096)
        self.kernel = Kernel(physical, self.scheduler, self._kernel_settings)
        self.free_at_boot = self.kernel.free_frames
        self._asked: deque[tuple[Call, list[Answer], Flag]] = deque()
        self._has_rung = False
        self.host.attach(self.host_memory)
        self.load()

    def load(self) -> None:
        """A driver, of the module loaded now."""
        self.driver = VmwareDriver(self.kernel, self.call, self.settings)

    def call(self, command: int, arg1: int, arg2: int) -> Job[Answer]:
        """The driver's way to its host."""
        asked = Call(command, arg1, arg2), list[Answer](), Flag()
        self._asked.append(asked)
        if not self.is_slow:
            self.answer_one()
        yield asked[2]
        return asked[1][0]

    @property
    def asked(self) -> list[Call]:
        """Calls that wait for their answer, oldest first."""
        return [call for call, _, _ in self._asked]

    def answer(self, call: Call) -> Answer:
        """What the host says; a test may put another in its place."""
        return self.host.call(*call)

    def answer_one(self) -> bool:
        """Let the host answer the oldest call; False if there is none."""
        if not self._asked:
            return False
        call, answers, flag = self._asked.popleft()
        self.calls.append(call)
        answers.append(self.answer(call))
        flag.set()
        return True

    def run_guest(self, steps: int = 1 << 20) -> bool:
        """Let the guest hear its doorbell, and go on."""
        if self._has_rung:
            self._has_rung = False
            self.driver.ring_doorbell()
        return self.scheduler.run(self.clock.now_ns(), steps)

    def run(self, seconds: float = 0.0) -> None:
        """Both ends until nothing moves, for so long; every call is answered."""
        end = self.clock.now_ns() + int(seconds * 1e9)
        while True:
            while self.run_guest(2000) or self.answer_one() or self._has_rung:
                pass
            while self.host.expired():
                pass
            waits = [self.scheduler.deadline_ns, self.host.deadline_ns]
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

    def go_to(self, pages: int, seconds: float = 30.0) -> None:
        """Ask for another size, and give the driver time."""
        self.host.set_target(pages)
        self.run(seconds)

    def driver_pfns(self) -> list[int]:
        """Every page in the driver's balloon, ascending."""
        balloon = self.driver.balloon
        found = set(balloon.heads(1).tolist())
        found |= set(frames_of(balloon.heads(HUGE_PAGES), HUGE_PAGES).tolist())
        assert len(found) == balloon.size
        return sorted(found)

    def check_agreement(self) -> None:
        """Both ends know the same pages, and the guest uses none of them."""
        pfns = self.driver_pfns()
        assert self.host.locked.pfns.tolist() == pfns
        assert self.host.actual_pages == self.driver.actual_pages == len(pfns)
        assert self.kernel.hidden_frames == len(pfns)
        used = self.kernel.table.use[pfns]
        assert ((used == Use.BALLOON) | (used == Use.HELD)).all()

    def leave(self) -> None:
        """The driver is unloaded, and nothing is missing."""
        self.do(self.driver.stop())
        assert self.driver.actual_pages == self.host.actual_pages == 0
        assert not self.host.is_running
        assert self.kernel.hidden_frames == 0

    def _ring(self, context: int, resource: int) -> None:
        self.rings.append((context, resource))
        self._has_rung = True
