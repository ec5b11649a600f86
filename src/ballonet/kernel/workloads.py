"""What a guest does all day: programs with working sets that change.

Sizes are parts of the guest's memory, so that a program presses any guest as hard.
A program does a little, rests, and goes on; what it remembers meanwhile stands in fields that are
numbers, so that it can be written down wherever it rests and go on elsewhere.
Time is the guest's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import pi, sin
from typing import Final

import numpy as np

from ballonet.kernel.areas import Area, Process
from ballonet.kernel.frames import Frames
from ballonet.kernel.kernel import Kernel, ProcessKilled
from ballonet.kernel.tasks import Job, Rest

__all__ = ["WORKLOADS", "Program", "Programs", "Workload"]

_SECOND: Final = 1_000_000_000
_DAY_S: Final = 86_400
_SWEEP_PAGES: Final = 1024  #: between two rests


class Programs:
    """All that runs in one guest."""

    def __init__(self, kernel: Kernel) -> None:
        self.running: Final[list[Program]] = []
        self._kernel = kernel

    def start(self, name: str) -> Program:
        """Start a program of `WORKLOADS`; the OOM killer ends it, and it is started again."""
        program = Program(self._kernel, name)
        self.resume(program)
        return program

    def resume(self, program: Program) -> None:
        """Let a program go on where it rests."""
        self.running.append(program)
        self._kernel.scheduler.spawn(program.name, program.run())


class Program:
    """One of them: what it does, as which process, and when it goes on."""

    def __init__(self, kernel: Kernel, name: str, process: Process | None = None) -> None:
        self.kernel: Final = kernel
        self.name: Final = name
        self.process = process or kernel.start_process(name)
        self.workload = WORKLOADS[name]()
        self.due_ns = kernel.scheduler.now_ns

    def run(self) -> Job[None]:
        """A step after the other, for ever."""
        while True:
            yield Rest(until_ns=self.due_ns)
            if not self.process.is_alive:
                self.process = self.kernel.start_process(self.name)
                self.workload = WORKLOADS[self.name]()
            pause_ns = _SECOND  # before it is started again
            with suppress(ProcessKilled):
                pause_ns = yield from self.workload.step(self)
            self.due_ns = self.kernel.scheduler.now_ns + pause_ns

    def own(self, number: int, name: str, share: float) -> Area:
        """Memory of its own by its number, or new: a share of the guest's memory."""
        return self.kernel.areas.get(number) or self.kernel.add_area(
            name, self._part(share), self.process
        )

    def file(self, number: int, name: str, share: float) -> Area:
        """A file, in the same way."""
        return self.kernel.areas.get(number) or self.kernel.add_area(name, self._part(share))

    def remove(self, area: Area) -> None:
        """Unmap memory or delete a file, unless the OOM killer was faster."""
        if area.number in self.kernel.areas:
            self.kernel.remove_area(area)

    def read(self, area: Area, pages: Frames) -> Job[None]:
        """Read pages. Raises: ProcessKilled."""
        yield from self._touch(area, pages, write=False)

    def write(self, area: Area, pages: Frames) -> Job[None]:
        """Write pages. Raises: ProcessKilled."""
        yield from self._touch(area, pages, write=True)

    def some(self, pages: int, count: int) -> Frames:
        """A few pages of the first so many, all as likely."""
        return np.flatnonzero(np.bincount(self.kernel.random.integers(0, pages, count)))

    def popular(self, pages: int, count: int) -> Frames:
        """A few pages, the first ones far more often than the last."""
        chosen = (self.kernel.random.pareto(1.2, count) * pages / 50).astype(np.int64)
        return np.flatnonzero(np.bincount(np.minimum(chosen, pages - 1)))

    def _touch(self, area: Area, pages: Frames, *, write: bool) -> Job[None]:
        process = None if area.is_file else self.process
        yield from self.kernel.paging.touch(area, pages, write=write, process=process)

    def _part(self, share: float) -> int:
        """Pages that are a share of the guest's memory at boot."""
        return max(1, int(sum(zone.managed_frames for zone in self.kernel.zones) * share))


@dataclass(slots=True)
class Workload(ABC):
    """What a program remembers between two steps; an area is remembered by its number, 0: none."""

    next_page: int = 0  #: where a sweep goes on

    @abstractmethod
    def step(self, program: Program) -> Job[int]:
        """Do a little; returns the nanoseconds until it goes on. Raises: ProcessKilled."""

    def sweep(self, program: Program, area: Area) -> Job[bool]:
        """Write the next pages of an area; True if those were the last."""
        end = min(self.next_page + _SWEEP_PAGES, area.frames.size)
        yield from program.write(area, np.arange(self.next_page, end))
        self.next_page = end if end < area.frames.size else 0
        return self.next_page == 0


@dataclass(slots=True)
class Web(Workload):
    """A web server: requests follow the sun, most of them ask for the same pages."""

    heap: int = 0
    documents: int = 0
    second: int = 0

    def step(self, program: Program) -> Job[int]:
        """A second of requests."""
        heap = program.own(self.heap, "web heap", 0.25)
        documents = program.file(self.documents, "documents", 0.6)
        self.heap, self.documents = heap.number, documents.number
        load = 0.55 + 0.45 * sin(2 * pi * self.second / _DAY_S)
        in_use = max(1, int(heap.frames.size * (0.3 + 0.7 * load)))
        yield from program.write(heap, program.some(in_use, 256))
        wanted = program.popular(documents.frames.size, int(64 * load) + 1)
        yield from program.read(documents, wanted)
        self.second += 1
        return _SECOND


@dataclass(slots=True)
class Batch(Workload):
    """A job every ten minutes: takes much memory, sweeps it, and gives it back."""

    table: int = 0
    sweeps: int = 0

    def step(self, program: Program) -> Job[int]:
        """A part of a sweep, or the end of a job."""
        table = program.own(self.table, "table", 0.55)
        self.table = table.number
        if self.sweeps >= 3:
            program.remove(table)
            self.sweeps = 0
            return 540 * _SECOND
        if not (yield from self.sweep(program, table)):
            return 0
        self.sweeps += 1
        return 20 * _SECOND


@dataclass(slots=True)
class Build(Workload):
    """A build: reads sources, works in memory of its own, writes results."""

    sources: int = 0
    results: int = 0
    unit: int = 0
    done: int = 0  #: pages of results

    def step(self, program: Program) -> Job[int]:
        """A part of a compiler's work on one unit, or the end of a build."""
        sources = program.file(self.sources, "sources", 0.3)
        results = program.file(self.results, "results", 0.1)
        self.sources, self.results = sources.number, results.number
        if self.done >= results.frames.size:
            program.remove(results)
            self.done = 0
            return 30 * _SECOND
        unit = program.own(self.unit, "compiler", 0.03)
        self.unit = unit.number
        if not self.next_page:
            yield from program.read(sources, program.some(sources.frames.size, 300))
        if not (yield from self.sweep(program, unit)):
            return 0
        end = min(self.done + 128, results.frames.size)
        yield from program.write(results, np.arange(self.done, end))
        self.done = end
        program.remove(unit)
        return _SECOND // 2


@dataclass(slots=True)
class Desktop(Workload):
    """A desktop nobody sits at: much was used once, little is used now."""

    session: int = 0
    is_set_up: bool = False

    def step(self, program: Program) -> Job[int]:
        """A part of the beginning, and then a little now and then."""
        session = program.own(self.session, "session", 0.4)
        self.session = session.number
        if not self.is_set_up:
            self.is_set_up = yield from self.sweep(program, session)
            return 0
        yield from program.write(session, program.some(max(1, session.frames.size // 20), 64))
        return 10 * _SECOND


@dataclass(slots=True)
class Leak(Workload):
    """A program that never frees anything; it ends as such programs do."""

    newest: int = 0

    def step(self, program: Program) -> Job[int]:
        """A part of what is taken in a second."""
        more = program.own(self.newest, "leaked", 0.01)
        self.newest = more.number
        if not (yield from self.sweep(program, more)):
            return 0
        self.newest = 0
        return _SECOND


#: By the name `--workload` knows.
WORKLOADS: Final[Mapping[str, type[Workload]]] = {
    "web": Web,
    "batch": Batch,
    "build": Build,
    "desktop": Desktop,
    "leak": Leak,
}
