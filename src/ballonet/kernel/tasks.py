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
        self._waiting: list[tuple[Task, int]] = []

    def set(self) -> None:
        """Let everyone who waits go on."""
        self.is_set = True
        waiting, self._waiting = self._waiting, []
        for task, wait in waiting:
            task.wake(wait)

    def clear(self) -> None:
        """Make the next ones wait."""
        self.is_set = False

    def add(self, task: Task, wait: int) -> None:
        """End this wait of a task when set."""
        self._waiting = [one for one in self._waiting if one[0].is_at(one[1])]
        self._waiting.append((task, wait))


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
    """One running generator; its waits are numbered, so that none ends another."""

    def __init__(self, name: str, job: Job[object], scheduler: Scheduler) -> None:
        self.name: Final = name
        self.done: Final = Flag()
        self._job, self._scheduler = job, scheduler
        self._wait = 0

    def is_at(self, wait: int) -> bool:
        """It still waits for this."""
        return wait == self._wait and not self.done.is_set

    def wake(self, wait: int) -> None:
        """End this wait, unless another end of it came first."""
        if self.is_at(wait):
            self._wait += 1
            self._scheduler.make_ready(self)

    def kill(self) -> None:
        """End it where it waits."""
        self._job.close()
        self.done.set()

    def step(self, now_ns: int) -> None:
        """Run it to its next wait."""
        if self.done.is_set:
            return
        try:
            reason = next(self._job)
        except StopIteration:
            self.done.set()
            return
        wait = self._wait
        match reason:
            case None:
                self.wake(wait)
            case Flag():
                self._wait_for(reason, wait)
            case Sleep(ns, flag):
                if flag is not None:
                    self._wait_for(flag, wait)
                if self.is_at(wait):
                    self._scheduler.sleep(self, wait, now_ns + ns)

    def _wait_for(self, flag: Flag, wait: int) -> None:
        if flag.is_set:
            self.wake(wait)
        else:
            flag.add(self, wait)


class Scheduler:
    """All tasks of one kernel."""

    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns = now_ns
        self._ready: deque[Task] = deque()
        self._sleepers: list[tuple[int, int, Task, int]] = []
        self._order = count()

    @property
    def deadline_ns(self) -> int | None:
        """When the next sleep ends; None: nobody sleeps."""
        while self._sleepers and not self._sleepers[0][2].is_at(self._sleepers[0][3]):
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def spawn(self, name: str, job: Job[object]) -> Task:
        """Start a task; it runs in the next turn."""
        task = Task(name, job, self)
        task.wake(0)
        return task

    def run(self, now_ns: int, steps_max: int = 1 << 30) -> bool:
        """Run tasks until all wait, or for so many steps; True if some could go on."""
        self.now_ns = max(self.now_ns, now_ns)
        while self._sleepers and self._sleepers[0][0] <= self.now_ns:
            _, _, task, wait = heapq.heappop(self._sleepers)
            task.wake(wait)
        for _ in range(steps_max):
            if not self._ready:
                return False
            self._ready.popleft().step(self.now_ns)
        return bool(self._ready)

    def make_ready(self, task: Task) -> None:
        """For tasks: queue up."""
        self._ready.append(task)

    def sleep(self, task: Task, wait: int, until_ns: int) -> None:
        """For tasks: end a wait then."""
        heapq.heappush(self._sleepers, (until_ns, next(self._order), task, wait))
