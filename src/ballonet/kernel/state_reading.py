"""The state of a kernel is read, and nothing in it is believed.

That every frame of memory is named just once is what proves that none has two owners, and that
none is lost.  What a guest may do to itself is not looked at: times, counters and marks.
Units: frames.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ballonet.errors import SettingsError
from ballonet.kernel.areas import IN_SWAP, Area, Process
from ballonet.kernel.buddy import MAX_ORDER, FreeBlocks, MigrateType
from ballonet.kernel.counters import VmCounters
from ballonet.kernel.frames import Frames, Use
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.reclaim import LOOKUP
from ballonet.kernel.state_form import StateReader, read_state
from ballonet.kernel.state_layout import (
    PART,
    KernelFacts,
    KernelState,
    ProgramState,
    Watermarks,
    machine_of,
)
from ballonet.kernel.workloads import WORKLOADS
from ballonet.kernel.zone import Zone

__all__ = ["read_kernel"]

_OWNED: Final = (Use.KERNEL, Use.BALLOON, Use.HELD)
_U32: Final = 1 << 32
_FRAMES_MAX: Final = _U32 + IN_SWAP  # from here on it is IN_SWAP or ABSENT, modulo 2^32
_PAGES_MAX: Final = (1 << 31) - 1
_LISTS: Final = len(MigrateType) * (MAX_ORDER + 1)


def read_kernel(kernel: Kernel, raw: bytes) -> KernelState:
    """Read a state for this kernel, which is not changed.

    Raises: SettingsError, if it is another machine's; StreamError, if it cannot be right.
    """
    reader = read_state(PART, raw)
    theirs, ours = reader.values.get("machine"), machine_of(kernel)
    if theirs != ours:
        raise SettingsError("machine of the saved guest", str(theirs)[:200], str(ours))
    facts = reader.record(KernelFacts, "facts")
    _require(reader, facts.clock < _U32 and facts.next_mark < _U32, "its clocks are out of bounds")
    zones = _zones(kernel, reader)
    runs = _runs(reader)
    processes = _processes(reader, facts)
    areas = _areas(kernel, reader, facts, processes)
    used = np.concatenate([np.empty(0, np.int64), *(area.present for area in areas)])
    _check_owners(kernel, reader, [blocks for _, blocks in zones], used)
    ballooned = sum(frames for _, frames, use in runs if use == Use.BALLOON)
    _require(reader, facts.hidden_frames <= ballooned, "more frames are hidden than in the balloon")
    touched = reader.arrays["touched"]
    _require(reader, touched.size == used.size, "not each used frame was touched once")
    _require(reader, bool((touched <= facts.clock).all()), "frames were touched in the future")
    oldest, when = reader.arrays["oldest"], reader.arrays["oldest_touched"]
    _require(reader, oldest.size == when.size <= LOOKUP, "too many frames are old")
    _require(reader, bool((oldest < kernel.table.use.size).all()), "an old frame is no memory")
    return KernelState(
        facts,
        reader.record(VmCounters, "counters"),
        _random(reader),
        zones,
        runs,
        areas,
        processes,
        _programs(reader, processes),
        touched,
        oldest.astype(np.int64),
        when.copy(),
    )


def _require(reader: StateReader, is_right: bool, otherwise: str) -> None:  # noqa: FBT001
    """Raises: StreamError."""
    if not is_right:
        raise reader.refuse(otherwise)


def _zones(kernel: Kernel, reader: StateReader) -> list[tuple[Watermarks, FreeBlocks]]:
    """Each zone's numbers and free blocks, which lie in it. Raises: StreamError."""
    listed = reader.values.get("zones")
    if not isinstance(listed, list) or len(listed) != len(kernel.zones):
        raise reader.refuse(f"it has not {len(kernel.zones)} zones")
    heads, counts, types, reported = (
        reader.arrays[name] for name in ("free_heads", "free_counts", "block_types", "reported")
    )
    _require(reader, counts.size == _LISTS * len(listed), "it has not the lists of its zones")
    lengths = counts.astype(np.int64).reshape(-1, _LISTS)
    _require(reader, int(lengths.sum()) == heads.size, "its lists have not its free blocks")
    own = [zone.buddy.pageblocks for zone in kernel.zones]
    _require(reader, types.size == sum(own), "it has not the pageblocks of its zones")
    _require(reader, bool((types < len(MigrateType)).all()), "a pageblock is of no type")
    found = []
    for i, zone in enumerate(kernel.zones):
        at, length = int(lengths[:i].sum()), int(lengths[i].sum())
        inside = (reported >= zone.buddy.start) & (reported < zone.buddy.end)
        blocks = FreeBlocks(
            heads[at : at + length].astype(np.int64),
            lengths[i],
            types[sum(own[:i]) : sum(own[: i + 1])],
            reported[inside].astype(np.int64),
        )
        _check_blocks(reader, zone, blocks)
        found.append((_watermarks(reader, zone, listed[i]), blocks))
    known = sum(blocks.reported.size for _, blocks in found)
    _require(reader, known == reported.size, "a reported block lies in no zone")
    return found


def _check_blocks(reader: StateReader, zone: Zone, blocks: FreeBlocks) -> None:
    """Raises: StreamError."""
    heads, frames = blocks.heads, blocks.frames
    _require(reader, not (heads & (frames - 1)).any(), "a free block begins at an odd place")
    inside = (heads >= zone.buddy.start) & (heads + frames <= zone.buddy.end)
    _require(reader, bool(inside.all()), "a free block lies outside of its zone")
    reported = blocks.reported
    _require(reader, bool((np.diff(reported) > 0).all()), "reported blocks are not in order")
    _require(reader, bool(np.isin(reported, heads).all()), "a reported block is not free")


def _watermarks(reader: StateReader, zone: Zone, listed: object) -> Watermarks:
    marks = reader.as_record(Watermarks, f"zone {zone.name}", listed)
    size = zone.buddy.end - zone.buddy.start
    is_right = marks.min <= marks.low <= marks.high <= size and marks.managed <= size
    _require(reader, is_right, f"the watermarks of zone {zone.name} are not in order")
    return marks


def _runs(reader: StateReader) -> list[tuple[int, int, int]]:
    """Frames that belong to no area and are not free. Raises: StreamError."""
    first, frames, use = (reader.arrays[name] for name in ("run_first", "run_frames", "run_use"))
    _require(reader, first.size == frames.size == use.size, "its runs have not as many parts")
    _require(reader, bool(np.isin(use, _OWNED).all()), "a run is used for nothing known")
    _require(reader, bool(frames.all()), "a run has no frames")
    return list(zip(first.tolist(), frames.tolist(), use.tolist(), strict=True))


def _processes(reader: StateReader, facts: KernelFacts) -> list[Process]:
    """Raises: StreamError."""
    processes = [Process(pid, name) for pid, name in reader.table("processes", int, str)]
    pids = [0, *(process.pid for process in processes), facts.next_pid]
    _require(reader, pids == sorted(set(pids)), "processes are not numbered in order")
    return processes


def _areas(
    kernel: Kernel, reader: StateReader, facts: KernelFacts, processes: list[Process]
) -> list[Area]:
    """Areas with their pages, each given to its process. Raises: StreamError."""
    rows = reader.table("areas", int, str, int, int)
    numbers = [0, *(row[0] for row in rows), facts.next_area]
    _require(reader, numbers == sorted(set(numbers)), "areas are not numbered in order")
    pages, owners = [row[2] for row in rows], {process.pid: process for process in processes}
    frames, marks = (reader.arrays[name] for name in ("area_frames", "area_marks"))
    bits = reader.arrays["area_dirty"]
    _require(reader, max(pages, default=0) <= _PAGES_MAX, "an area is too large")
    _require(reader, sum(pages) == frames.size, "its areas have not as many pages")
    marked = frames.size if kernel.settings.marks else 0
    _require(reader, marks.size == marked, "its areas have not as many marks")
    file_pages = sum(row[2] for row in rows if not row[3])
    _require(reader, bits.size == -(-file_pages // 8), "its files have not as many dirty bits")
    dirty = np.unpackbits(bits, count=file_pages).astype(np.bool_)
    at = dirty_at = swapped = 0
    areas = []
    for number, name, count, pid in rows:
        _require(reader, not pid or pid in owners, f"area {number} belongs to no process")
        area = Area(number, name, 0, is_file=not pid, marks=False)
        area.frames = frames[at : at + count].astype(np.int64)
        area.frames[area.frames >= _FRAMES_MAX] -= _U32
        if kernel.settings.marks:
            area.marks = marks[at : at + count].copy()
        if pid:
            owners[pid].areas.append(area)
            swapped += area.swapped_pages
        else:
            area.dirty = dirty[dirty_at : dirty_at + count].copy()
            dirty_at += count
            _require(reader, not area.swapped_pages, f"file {number} has pages in the swap")
        at += count
        areas.append(area)
    is_right = swapped == facts.swap_used <= kernel.swap.total
    _require(reader, is_right, f"{swapped} pages are in a swap with {facts.swap_used}")
    return areas


def _check_owners(
    kernel: Kernel, reader: StateReader, blocks: list[FreeBlocks], used: Frames
) -> None:
    """Each frame of memory has just one owner. Raises: StreamError."""
    first = np.concatenate([*(one.heads for one in blocks), reader.arrays["run_first"]])
    frames = np.concatenate([*(one.frames for one in blocks), reader.arrays["run_frames"]])
    first, frames = first.astype(np.int64), frames.astype(np.int64)
    order = np.argsort(first, kind="stable")
    first, end = first[order], (first + frames)[order]
    is_used = np.zeros(kernel.table.use.size, np.bool_)
    _require(reader, bool((used < is_used.size).all()), "a page lies in no memory")
    is_used[used] = True
    ascending = np.flatnonzero(is_used)  # a sort of the frames would take ten times as long
    is_disjoint = (first[1:] >= end[:-1]).all() and ascending.size == used.size
    used = ascending
    before = np.searchsorted(first, used, side="right")  # runs that begin there or before
    reach = np.concatenate(([0], end))[before]
    _require(reader, bool(is_disjoint and (used >= reach).all()), "a frame has two owners")
    total = 0
    for start, stop in kernel.memory.ranges:
        inside = (first >= start) & (end <= stop)
        total += int((end - first)[inside].sum())
        total += int(np.count_nonzero((used >= start) & (used < stop)))
    size = sum(stop - start for start, stop in kernel.memory.ranges)
    named = int((end - first).sum()) + used.size
    _require(reader, total == named == size, f"{named} frames are named, {total} of {size} memory")


def _programs(reader: StateReader, processes: list[Process]) -> list[ProgramState]:
    """Raises: StreamError."""
    found = []
    free = {process.pid for process in processes}
    for name, pid, due_ns, values in reader.table("programs", str, int, int, dict):
        kind = WORKLOADS.get(name)
        if kind is None:
            raise reader.refuse(f"there is no program {name[:40]!r}")
        _require(reader, not pid or pid in free, f"program {name} is no process, or another's")
        free.discard(pid)
        found.append(ProgramState(name, pid, due_ns, reader.as_record(kind, name, values)))
    return found


def _random(reader: StateReader) -> dict[str, Any]:
    """The state of PCG64. Raises: StreamError."""
    rows = reader.values.get("random")
    limits = [1 << 128, 1 << 128, 2, _U32]
    is_right = (
        isinstance(rows, list)
        and len(rows) == len(limits)
        and all(
            type(value) is int and 0 <= value < end for value, end in zip(rows, limits, strict=True)
        )
        and rows[1] % 2 == 1
    )
    if not is_right or not isinstance(rows, list):
        raise reader.refuse("its random generator is none")
    state, step, has_half, half = rows
    return {
        "bit_generator": "PCG64",
        "state": {"state": state, "inc": step},
        "has_uint32": has_half,
        "uinteger": half,
    }
