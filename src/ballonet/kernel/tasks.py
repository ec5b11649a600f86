"""Tasks of the guest kernel, run in turns on one thread.

A task is a generator that yields what it waits for: a `Flag` to be set, a `Sleep` to be over, or
None to let the others run.  `run` goes on until every task waits; `deadline_ns` says when the next
sleep ends.  Time is handed in, so a day of a guest may pass in a second.

A generator cannot be written down.  So a task that lives long has points at which it keeps nothing
in its variables that the same task, begun anew, would not find in fields: it yields a `Rest`.
After `freeze` each task goes on to its next rest and waits there whatever happens, and no new task
begins; tasks without a rest come to their end.  What a task waits for at its rest is in fields,
too: a flag may be set meanwhile, a time may pass, and the task begun anew goes on at once.
Source: the idea is that of Linux kernel/freezer.c.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from typing import Final, TypeVar

__all__ = ["Flag", "Job", "Rest", "Scheduler", "Sleep", "Task", "Wait"]


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


@dataclass(frozen=True, slots=True)
class Rest:
    """Wait at a point where the task may be begun anew; for the task itself, not for its jobs.

    Ends when the flag is set or the time has come, whatever is earlier.
    """

    flag: Flag | None = None
    until_ns: int | None = None


Wait = Flag | Sleep | Rest | None
R = TypeVar("R")
#: What may wait: `yield from` it inside a task.
Job = Generator[Wait, None, R]


class Task:
    """One running generator; its waits are numbered, so that none ends another."""

    def __init__(self, name: str, job: Job[object], scheduler: Scheduler) -> None:
        self.name: Final = name
        self.done: Final = Flag()
        self.rests = True  #: it could be begun anew: it waits at a `Rest`, or has not begun
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
        self._end()

    def step(self, now_ns: int) -> None:
        """Run it to its next wait."""
        if self.done.is_set:
            return
        try:
            reason = next(self._job)
        except StopIteration:
            self._end()
            return
        self.rests = isinstance(reason, Rest)
        self._scheduler.note_rest(self)
        match reason:
            case None:
                self._wait_for(None, now_ns, now_ns)
            case Flag():
                self._wait_for(reason, None, now_ns)
            case Sleep(ns, flag):
                self._wait_for(flag, now_ns + ns, now_ns)
            case Rest(flag, until_ns):
                self._wait_for(flag, until_ns, now_ns)

    def _end(self) -> None:
        self.rests = True
        self._scheduler.note_rest(self)
        self.done.set()

    def _wait_for(self, flag: Flag | None, until_ns: int | None, now_ns: int) -> None:
        wait = self._wait
        if (flag is not None and flag.is_set) or (until_ns is not None and until_ns <= now_ns):
            self.wake(wait)
            return
        if flag is not None:
            flag.add(self, wait)
        if until_ns is not None:
            self._scheduler.sleep(self, wait, until_ns)


class Scheduler:
    """All tasks of one kernel."""

    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns = now_ns
        self._ready: deque[Task] = deque()
        self._sleepers: list[tuple[int, int, Task, int]] = []
        self._order = count()
        self._restless: set[Task] = set()  # wait where they could not be begun anew
        self._held: list[Task] = []  # would go on but for the freeze
        self._is_freezing = False

    @property
    def is_frozen(self) -> bool:
        """`freeze` has come to its end: every task rests."""
        return self._is_freezing and not self._restless

    @property
    def is_freezing(self) -> bool:
        """Tasks go on to their rests, or have come to them."""
        return self._is_freezing

    @property
    def restless(self) -> list[str]:
        """Names of the tasks that do not rest."""
        return sorted(task.name for task in self._restless)

    @property
    def deadline_ns(self) -> int | None:
        """When the next sleep ends; None: nobody sleeps."""
        while self._sleepers and not self._sleepers[0][2].is_at(self._sleepers[0][3]):
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    @property
    def can_go_on(self) -> bool:
        """Some task waits for nothing but its turn."""
        return bool(self._ready)

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
            task = self._ready.popleft()
            if self._is_freezing and task.rests:
                self._held.append(task)
            else:
                task.step(self.now_ns)
        return self.can_go_on

    def freeze(self) -> None:
        """Let every task go on to its next rest and no further; `is_frozen` says when all rest."""
        self._is_freezing = True

    def thaw(self) -> None:
        """Let all go on, in the order in which they would have."""
        self._is_freezing = False
        self._ready.extendleft(reversed(self._held))
        self._held.clear()

    def note_rest(self, task: Task) -> None:
        """For tasks: it rests from now on, or does not."""
        if task.rests:
            self._restless.discard(task)
        else:
            self._restless.add(task)

    def make_ready(self, task: Task) -> None:
        """For tasks: queue up."""
        self._ready.append(task)

    def sleep(self, task: Task, wait: int, until_ns: int) -> None:
        """For tasks: end a wait then."""
        heapq.heappush(self._sleepers, (until_ns, next(self._order), task, wait))
