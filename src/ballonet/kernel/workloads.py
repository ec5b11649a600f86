"""What a guest does all day: programs with working sets that change.

Sizes are parts of the guest's memory, so that a program presses any guest as hard.
Time is the guest's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi, sin
from typing import Final

import numpy as np

from ballonet.kernel.areas import Area, Process
from ballonet.kernel.frames import Frames
from ballonet.kernel.kernel import Kernel, ProcessKilled
from ballonet.kernel.tasks import Job, Sleep

__all__ = ["WORKLOADS", "start_workload"]

_SECOND: Final = 1_000_000_000
_DAY_S: Final = 86_400


def start_workload(kernel: Kernel, name: str) -> Process:
    """Start a program of `WORKLOADS`; the OOM killer ends it, and it is started again."""
    process = kernel.start_process(name)
    process.task = kernel.scheduler.spawn(name, _run(kernel, name, process))
    return process


def _run(kernel: Kernel, name: str, process: Process) -> Job[None]:
    try:
        yield from WORKLOADS[name](kernel, process)
    except ProcessKilled:
        yield Sleep(_SECOND)
        start_workload(kernel, name)


def _web(kernel: Kernel, process: Process) -> Job[None]:
    """A web server: requests follow the sun, most of them ask for the same pages."""
    heap = kernel.add_area("web heap", _part(kernel, 0.25), process)
    documents = kernel.add_area("documents", _part(kernel, 0.6))
    second = 0
    while True:
        load = 0.55 + 0.45 * sin(2 * pi * second / _DAY_S)
        in_use = max(1, int(heap.frames.size * (0.3 + 0.7 * load)))
        yield from kernel.paging.touch(
            heap, _some(kernel, in_use, 256), write=True, process=process
        )
        wanted = _popular(kernel, documents.frames.size, int(64 * load) + 1)
        yield from kernel.paging.touch(documents, wanted, write=False)
        second += 1
        yield Sleep(_SECOND)


def _batch(kernel: Kernel, process: Process) -> Job[None]:
    """A job every ten minutes: takes much memory, sweeps it, and gives it back."""
    while True:
        table = kernel.add_area("table", _part(kernel, 0.55), process)
        for _ in range(3):
            yield from kernel.paging.touch(table, _all(table), write=True, process=process)
            yield Sleep(20 * _SECOND)
        kernel.remove_area(table)
        yield Sleep(540 * _SECOND)


def _build(kernel: Kernel, process: Process) -> Job[None]:
    """A build: reads sources, works in memory of its own, writes results."""
    sources = kernel.add_area("sources", _part(kernel, 0.3))
    while True:
        results = kernel.add_area("results", _part(kernel, 0.1))
        done = 0
        while done < results.frames.size:
            unit = kernel.add_area("compiler", _part(kernel, 0.03), process)
            yield from kernel.paging.touch(
                sources, _some(kernel, sources.frames.size, 300), write=False
            )
            yield from kernel.paging.touch(unit, _all(unit), write=True, process=process)
            end = min(done + 128, results.frames.size)
            yield from kernel.paging.touch(results, np.arange(done, end), write=True)
            done = end
            kernel.remove_area(unit)
            yield Sleep(_SECOND // 2)
        kernel.remove_area(results)
        yield Sleep(30 * _SECOND)


def _desktop(kernel: Kernel, process: Process) -> Job[None]:
    """A desktop nobody sits at: much was used once, little is used now."""
    session = kernel.add_area("session", _part(kernel, 0.4), process)
    yield from kernel.paging.touch(session, _all(session), write=True, process=process)
    while True:
        used = _some(kernel, max(1, session.frames.size // 20), 64)
        yield from kernel.paging.touch(session, used, write=True, process=process)
        yield Sleep(10 * _SECOND)


def _leak(kernel: Kernel, process: Process) -> Job[None]:
    """A program that never frees anything; it ends as such programs do."""
    while True:
        more = kernel.add_area("leaked", max(1, _part(kernel, 0.01)), process)
        yield from kernel.paging.touch(more, _all(more), write=True, process=process)
        yield Sleep(_SECOND)


def _part(kernel: Kernel, share: float) -> int:
    """Pages that are a share of the guest's memory at boot."""
    return max(1, int(sum(zone.managed_frames for zone in kernel.zones) * share))


def _all(area: Area) -> Frames:
    return np.arange(area.frames.size)


def _some(kernel: Kernel, pages: int, count: int) -> Frames:
    """A few pages of the first so many, all as likely."""
    return np.flatnonzero(np.bincount(kernel.random.integers(0, pages, count)))


def _popular(kernel: Kernel, pages: int, count: int) -> Frames:
    """A few pages, the first ones far more often than the last."""
    chosen = (kernel.random.pareto(1.2, count) * pages / 50).astype(np.int64)
    return np.flatnonzero(np.bincount(np.minimum(chosen, pages - 1)))


#: By the name `--workload` knows.
WORKLOADS: Final[Mapping[str, Callable[[Kernel, Process], Job[None]]]] = {
    "web": _web,
    "batch": _batch,
    "build": _build,
    "desktop": _desktop,
    "leak": _leak,
}
