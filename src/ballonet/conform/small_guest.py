"""A small guest in this process: our kernel in shared memory, with time that a check moves.

Not here: its balloon's driver, and the host that the check plays.
Units: frames, which are balloon pages of 4 KiB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import numpy as np

from ballonet.balloon.clock import earliest
from ballonet.conform.checks import Failed
from ballonet.conform.hand_clock import HandClock
from ballonet.kernel.areas import Area, Process
from ballonet.kernel.kernel import Kernel, KernelSettings, ProcessKilled
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Job, Scheduler
from ballonet.memory.shared_file import SharedFile
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["OtherEnd", "SmallGuest"]

T = TypeVar("T")

_STEPS: Final = 2000
_LOOK_S: Final = 0.1
#: For what waits for a timer of the driver's: a minute of its time, which costs none of ours.
_WAIT_S: Final = 60.0


class OtherEnd(Protocol):
    """What is not the guest: its host, and the way there."""

    @property
    def deadline_ns(self) -> int | None:
        """When it has something to do; None: only when it hears something."""
        ...

    def turn(self) -> bool:
        """Do what there is to do; True if there was something."""
        ...


class SmallGuest:
    """Its kernel, its clock, and programs in it."""

    def __init__(self, file: SharedFile) -> None:
        self.clock: Final = HandClock()
        self.scheduler: Final = Scheduler(self.clock.now_ns())
        memory = PhysicalMemory([MemoryPiece(0, file.view)], BALLOON_PAGE_BYTES)
        self.kernel: Final = Kernel(memory, self.scheduler, KernelSettings())
        self._others: list[OtherEnd] = []

    def meet(self, other: OtherEnd) -> None:
        """Let this end have its turns, too."""
        self._others.append(other)

    def rest(self, seconds: float) -> None:
        """Let so much time pass, for everybody."""
        end_ns = self.clock.now_ns() + int(seconds * 1e9)
        while True:
            while self._turn():
                pass
            due_ns = earliest(
                self.scheduler.deadline_ns, *(one.deadline_ns for one in self._others)
            )
            if due_ns is None or due_ns > end_ns:
                self.clock.move_to(end_ns)
                return
            self.clock.move_to(due_ns)

    def until(self, condition: Callable[[], bool], seconds: float = _WAIT_S) -> bool:
        """Let time pass until something is so; False if it is not in time."""
        end_ns = self.clock.now_ns() + int(seconds * 1e9)
        while not condition():
            if self.clock.now_ns() >= end_ns:
                return False
            self.rest(_LOOK_S)
        return True

    def do(self, name: str, job: Job[T]) -> T:
        """Have a job of the guest done. Raises: Failed, if it does not end."""
        results: list[T] = []

        def top() -> Job[None]:
            results.append((yield from job))

        task = self.scheduler.spawn(name, top())
        if not self.until(lambda: task.done.is_set):
            raise Failed(f"in the guest {name} does not end")
        return results[0]

    def use_memory(self, pages: int) -> bool:
        """A process writes so much and reads it again; False if it does not survive that.

        Raises: GuestPanicError, if it does not read what it wrote.
        """
        process = self.kernel.start_process("user")
        area = self.kernel.add_area("user", pages, process)
        survived = self.do("a process", self._write_and_read(area, process))
        if process.is_alive:
            self.kernel.end_process(process)
        return survived

    def _write_and_read(self, area: Area, process: Process) -> Job[bool]:
        every = np.arange(area.frames.size)
        try:
            for write in (True, False):
                yield from self.kernel.paging.touch(area, every, write=write, process=process)
        except ProcessKilled:
            return False
        return True

    def _turn(self) -> bool:
        is_busy = self.scheduler.run(self.clock.now_ns(), _STEPS)
        for other in self._others:
            is_busy |= other.turn()
        return is_busy
