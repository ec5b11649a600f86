"""What is written down of a kernel: names and types.

Every frame of memory is named once: in a free block, as a page of an area, or in a run of frames
of the kernel, the balloon or a hint.  The table of frames is made out of that.
Not here: writing it and filling a kernel with it (state.py), checking it (state_reading.py).
Units: frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ballonet.kernel.areas import Area, Process
from ballonet.kernel.buddy import FreeBlocks
from ballonet.kernel.counters import VmCounters
from ballonet.kernel.frames import Frames
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.state_form import StatePart
from ballonet.kernel.workloads import Workload

__all__ = ["PART", "KernelFacts", "KernelState", "ProgramState", "Watermarks", "machine_of"]

PART: Final = StatePart(
    "kernel",
    {
        "free_heads": "<u4",  # of all zones, as FreeBlocks has them
        "free_counts": "<u4",
        "block_types": "u1",
        "reported": "<u4",
        "run_first": "<u4",  # frames of the kernel, the balloon and hints
        "run_frames": "<u4",
        "run_use": "u1",
        "area_frames": "<u4",  # of all areas: frame, or ABSENT or IN_SWAP modulo 2^32
        "area_dirty": "u1",  # of all files, a bit a page
        "area_marks": "<u4",
        "touched": "<u4",  # of the frames of areas, ascending by frame
        "oldest": "<u4",
        "oldest_touched": "<u4",
    },
)


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """Single numbers of a kernel and its parts; times by the guest's clock."""

    now_ns: int
    next_area: int
    next_pid: int
    hidden_frames: int
    swap_used: int
    clock: int
    next_mark: int
    file_frames_min: int
    wants_memory: bool
    wants_report: bool
    report_due_ns: int | None
    report_passes: int


@dataclass(frozen=True, slots=True)
class Watermarks:
    """The numbers of a zone."""

    managed: int
    min: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class ProgramState:
    """A program at rest; pid 0: its process was killed."""

    name: str
    pid: int
    due_ns: int
    workload: Workload


@dataclass(frozen=True, slots=True)
class KernelState:
    """All of it, checked."""

    facts: KernelFacts
    counters: VmCounters
    random: dict[str, Any]
    zones: list[tuple[Watermarks, FreeBlocks]]
    runs: list[tuple[int, int, int]]  #: first frame, frames, use
    areas: list[Area]
    processes: list[Process]
    programs: list[ProgramState]
    touched: NDArray[np.uint32]
    oldest: Frames
    oldest_touched: NDArray[np.uint32]


def machine_of(kernel: Kernel) -> dict[str, object]:
    """What must be the same where a guest goes on."""
    return {
        "page_bytes": kernel.page_bytes,
        "memory": [list(one) for one in kernel.memory.ranges],
        "swap": kernel.swap.total,
        "marks": kernel.settings.marks,
        "poison": kernel.settings.poison,
        "reporting_bytes": kernel.settings.reporting_bytes,
    }
