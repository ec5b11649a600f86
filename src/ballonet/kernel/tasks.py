"""Tasks of the guest kernel, run in turns on one thread.

A task is a generator that yields what it waits for: a `Flag` to be set, a `Sleep` to be over, or
None to let the others run.  `run` goes on until every task waits; `deadline_ns` says when the next
sleep ends.  Time is handed in, so a day of a guest may pass in a second.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from typing import Final, TypeVar

__all__ = ["Flag", "Job", "Scheduler", "Sleep", "Task", "Wait"]


class Flag:
    """Set by one task and waited for by others; stays set until cleared."""

    __slots__ = ("_waiting", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiting: list[Task] = []

    def set(self) -> None:
        """Let everyone who waits go on."""
        self.is_set = True
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            task.wake()

    def clear(self) -> None:
        """Make the next ones wait."""
        self.is_set = False

    def add(self, task: Task) -> None:
        """Wake this task when set."""
        self._waiting.append(task)


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait so many nanoseconds; with a flag, until it is set if that is earlier."""

    ns: int
    flag: Flag | None = None


Wait = Flag | Sleep | None
R = TypeVar("R")
#: What may wait: `yield from` it inside a task.
Job = Generator[Wait, None, R]


class Task:
    """One running generator."""

    def __init__(self, name: str, job: Job[object], scheduler: Scheduler) -> None:
        self.name: Final = name
        self.done: Final = Flag()
        self._job, self._scheduler = job, scheduler
        self._is_ready = False

    def wake(self) -> None:
        """Run again soon."""
        if not self._is_ready and not self.done.is_set:
            self._is_ready = True
            self._scheduler.make_ready(self)

    def kill(self) -> None:
        """End it where it waits."""
        self._job.close()
        self.done.set()

    def step(self, now_ns: int) -> None:
        """Run it to its next wait."""
        self._is_ready = False
        if self.done.is_set:
            return
        try:
            wait = next(self._job)
        except StopIteration:
            self.done.set()
            return
        match wait:
            case None:
                self.wake()
            case Flag():
                if wait.is_set:
                    self.wake()
                else:
                    wait.add(self)
            case Sleep(ns, flag):
                if flag is not None and flag.is_set:
                    self.wake()
                    return
                self._scheduler.sleep(self, now_ns + ns)
                if flag is not None:
                    flag.add(self)


class Scheduler:
    """All tasks of one kernel."""

    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns = now_ns
        self._ready: deque[Task] = deque()
        self._sleepers: list[tuple[int, int, Task]] = []
        self._order = count()

    @property
    def deadline_ns(self) -> int | None:
        """When the next sleep ends; None: nobody sleeps."""
        return self._sleepers[0][0] if self._sleepers else None

    def spawn(self, name: str, job: Job[object]) -> Task:
        """Start a task; it runs in the next turn."""
        task = Task(name, job, self)
        task.wake()
        return task

    def run(self, now_ns: int, steps_max: int = 1 << 30) -> bool:
        """Run tasks until all wait, or for so many steps; True if some could go on."""
        self.now_ns = max(self.now_ns, now_ns)
        while self._sleepers and self._sleepers[0][0] <= self.now_ns:
            heapq.heappop(self._sleepers)[2].wake()
        for _ in range(steps_max):
            if not self._ready:
                return False
            self._ready.popleft().step(self.now_ns)
        return bool(self._ready)

    def make_ready(self, task: Task) -> None:
        """For tasks: queue up."""
        self._ready.append(task)

    def sleep(self, task: Task, until_ns: int) -> None:
        """For tasks: be woken then."""
        heapq.heappush(self._sleepers, (until_ns, next(self._order), task))
