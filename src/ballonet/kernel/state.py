"""A kernel at rest is written down, and another one of the same memory goes on as this one.

Memory itself travels in its own way and must be there when the guest goes on.  What is asked of the
driver is in its own state (driver/state.py), which is restored after this one.
About 12 bytes a page that is used, 12 a free block; arrays of nothing cost nothing.
Not here: what is written (state_layout.py), in which form (state_form.py), and how it is checked
(state_reading.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import GuestError, UsageError
from ballonet.kernel.areas import IN_SWAP, Process
from ballonet.kernel.frames import Frames, Use
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.state_form import pack_state
from ballonet.kernel.state_layout import (
    PART,
    KernelFacts,
    KernelState,
    ProgramState,
    Watermarks,
    machine_of,
)
from ballonet.kernel.state_reading import read_kernel
from ballonet.kernel.workloads import Program, Programs

__all__ = ["restore_state", "state_of"]


def state_of(kernel: Kernel, programs: Programs) -> bytes:
    """What a kernel needs to go on elsewhere.

    Raises: UsageError, if its tasks do not rest; GuestError, if it is too large.
    """
    if not kernel.scheduler.is_frozen:
        raise UsageError(
            f"tasks do not rest: {', '.join(kernel.scheduler.restless) or 'no freeze'}"
        )
    if kernel.table.use.size > (1 << 32) + IN_SWAP:
        raise GuestError("a guest with so many frames cannot be written down")
    values = {
        "machine": machine_of(kernel),
        "facts": asdict(_facts(kernel)),
        "counters": asdict(kernel.counters),
        "random": _random_of(kernel),
        "zones": [
            asdict(Watermarks(zone.managed_frames, zone.min, zone.low, zone.high))
            for zone in kernel.zones
        ],
        "processes": [[process.pid, process.name] for process in kernel.processes],
        "areas": _areas_of(kernel),
        "programs": [_program_of(program) for program in programs.running],
    }
    return pack_state(PART, values, _arrays_of(kernel))


def restore_state(kernel: Kernel, programs: Programs, raw: bytes) -> None:
    """Fill a kernel that did not boot, and start its tasks; nothing runs before its scheduler does.

    Raises: UsageError, if it has booted; SettingsError, if the state is another machine's;
    StreamError, if it cannot be right.  The kernel is as it was then.
    """
    if kernel.managed_frames:
        raise UsageError("a kernel that has booted takes no state")
    state = read_kernel(kernel, raw)
    _fill_frames(kernel, state)
    for zone, (marks, blocks) in zip(kernel.zones, state.zones, strict=True):
        zone.buddy.restore(blocks)
        zone.managed_frames, zone.min = marks.managed, marks.min
        zone.low, zone.high = marks.low, marks.high
    kernel.processes.extend(state.processes)
    kernel.reclaim.oldest, kernel.reclaim.oldest_touched = state.oldest, state.oldest_touched
    for name, value in asdict(state.counters).items():
        setattr(kernel.counters, name, value)
    kernel.random.bit_generator.state = state.random
    _fill_facts(kernel, state.facts)
    kernel.start()
    for program in state.programs:
        programs.resume(_program(kernel, program))


def _facts(kernel: Kernel) -> KernelFacts:
    reporting = kernel.reporting
    return KernelFacts(
        kernel.scheduler.now_ns,
        kernel.next_area,
        kernel.next_pid,
        kernel.hidden_frames,
        kernel.swap.used,
        kernel.table.clock,
        kernel.paging.next_mark,
        kernel.reclaim.file_frames_min,
        kernel.memory_wanted.is_set,
        reporting.wanted.is_set,
        reporting.due_ns,
        reporting.passes,
    )


def _fill_facts(kernel: Kernel, facts: KernelFacts) -> None:
    kernel.scheduler.now_ns = facts.now_ns
    kernel.next_area, kernel.next_pid = facts.next_area, facts.next_pid
    kernel.hidden_frames, kernel.swap.used = facts.hidden_frames, facts.swap_used
    kernel.table.clock, kernel.paging.next_mark = facts.clock, facts.next_mark
    kernel.reclaim.file_frames_min = facts.file_frames_min
    kernel.reporting.due_ns, kernel.reporting.passes = facts.report_due_ns, facts.report_passes
    if facts.wants_memory:
        kernel.memory_wanted.set()
    if facts.wants_report:
        kernel.reporting.wanted.set()


def _random_of(kernel: Kernel) -> list[int]:
    raw: Mapping[str, Any] = kernel.random.bit_generator.state
    return [raw["state"]["state"], raw["state"]["inc"], raw["has_uint32"], raw["uinteger"]]


def _areas_of(kernel: Kernel) -> list[list[object]]:
    """Number, name, pages, and the process it belongs to; 0: a file."""
    owners = {area.number: one.pid for one in kernel.processes for area in one.areas}
    return [
        [area.number, area.name, area.frames.size, owners.get(area.number, 0)]
        for area in kernel.areas.values()
    ]


def _program_of(program: Program) -> list[object]:
    pid = program.process.pid if program.process.is_alive else 0
    return [program.name, pid, program.due_ns, asdict(program.workload)]


def _program(kernel: Kernel, state: ProgramState) -> Program:
    by_pid = {process.pid: process for process in kernel.processes}
    killed = Process(0, state.name, is_alive=False)
    program = Program(kernel, state.name, by_pid.get(state.pid, killed))
    program.workload, program.due_ns = state.workload, state.due_ns
    return program


def _arrays_of(kernel: Kernel) -> dict[str, NDArray[Any]]:
    table, areas = kernel.table, list(kernel.areas.values())
    blocks = [zone.buddy.snapshot() for zone in kernel.zones]
    first, frames, use = _runs_of(table.use)
    marks = [area.marks for area in areas if area.marks is not None]
    return {
        "free_heads": np.concatenate([one.heads for one in blocks]),
        "free_counts": np.concatenate([one.counts for one in blocks]),
        "block_types": np.concatenate([one.types for one in blocks]),
        "reported": np.concatenate([one.reported for one in blocks]),
        "run_first": first,
        "run_frames": frames,
        "run_use": use,
        "area_frames": _joined([area.frames for area in areas]),
        "area_dirty": np.packbits(_joined([area.dirty for area in areas]).astype(np.bool_)),
        "area_marks": _joined(marks),
        "touched": table.touched[table.used_as(Use.ANON, Use.CACHE)],
        "oldest": kernel.reclaim.oldest,
        "oldest_touched": kernel.reclaim.oldest_touched,
    }


def _joined(parts: list[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _runs_of(use: NDArray[np.uint8]) -> tuple[Frames, Frames, NDArray[np.uint8]]:
    """First frame, frames and use of each run that is not free and belongs to no area."""
    owned = use * ((use != Use.ANON) & (use != Use.CACHE))
    edges = np.flatnonzero(np.diff(owned, prepend=np.uint8(0), append=np.uint8(0)))
    frames, uses = np.diff(edges), owned[edges[:-1]]
    return edges[:-1][uses != 0], frames[uses != 0], uses[uses != 0]


def _fill_frames(kernel: Kernel, state: KernelState) -> None:
    """The table of frames and the areas, out of what each has."""
    table = kernel.table
    for first, frames, use in state.runs:
        table.use[first : first + frames] = use
    for area in state.areas:
        kernel.areas[area.number] = area
        indexes = np.flatnonzero(area.frames >= 0)
        frames_of_area = area.frames[indexes]
        table.use[frames_of_area] = Use.CACHE if area.is_file else Use.ANON
        table.area[frames_of_area] = area.number
        table.index[frames_of_area] = indexes
    table.touched[table.used_as(Use.ANON, Use.CACHE)] = state.touched
