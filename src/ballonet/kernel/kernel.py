"""The guest kernel put together: memory is allocated, used, reclaimed and freed.

A model, small and honest: zones with watermarks, a buddy allocator, pages of files and of
processes, swap, an OOM killer, compaction and free page reporting behave as Linux's do; drivers,
system calls and processors are not there.  Everything random comes from the seed.
What may have to wait is a job of the kernel's scheduler; see tasks.py.  A kernel can be made and
not booted, for a guest that comes from elsewhere; see state.py.
Units: frames, which are guest pages.  Source: Linux mm/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import numpy as np

from ballonet.errors import GuestPanicError
from ballonet.kernel.areas import Area, Process, Swap
from ballonet.kernel.buddy import MigrateType
from ballonet.kernel.compaction import Compaction
from ballonet.kernel.counters import VmCounters
from ballonet.kernel.frames import Frames, FrameTable, Use
from ballonet.kernel.page_reporting import PageReporting
from ballonet.kernel.paging import Paging
from ballonet.kernel.physical import PhysicalMemory
from ballonet.kernel.reclaim import SWAP_CLUSTER, Reclaim
from ballonet.kernel.tasks import Flag, Job, Rest, Scheduler, Sleep
from ballonet.kernel.zone import DMA32_END_BYTES, Zone, set_watermarks

__all__ = ["Effort", "Kernel", "KernelSettings", "ProcessKilled"]

#: What the kernel itself needs, and per frame for the facts about it, in bytes.
_IMAGE_BYTES: Final = 12 << 20
_FRAME_BYTES: Final = 64
_RETRIES: Final = 16
_DEADLOCKS: Final = 50
_DEADLOCK_NS: Final = 20_000_000

#: Asked for memory before a process is killed; returns the frames it gave.
OomNotifier = Callable[[], Job[int]]


class ProcessKilled(Exception):  # noqa: N818 - not an error: the end of a process
    """The OOM killer chose the process that runs; its job ends."""


class Effort(Enum):
    """How hard an allocation tries."""

    FREE_ONLY = auto()  #: only what is free
    ONCE = auto()  #: one reclaim, then give up
    ALWAYS = auto()  #: reclaim, kill a process if nothing helps, never give up


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """How a kernel is booted."""

    seed: int = 0
    swap_bytes: int = 0
    marks: bool = True  #: touch the bytes of pages, and check that none is lost
    poison: int | None = None  #: the byte freed pages are filled with: 0 or 0xAA
    reporting_bytes: int = 4 << 20  #: the smallest block that free page reporting names


class Kernel:
    """One guest's kernel, in memory of its own."""

    def __init__(
        self,
        memory: PhysicalMemory,
        scheduler: Scheduler,
        settings: KernelSettings,
        *,
        boots: bool = True,
    ) -> None:
        self.memory: Final = memory
        self.scheduler: Final = scheduler
        self.settings: Final = settings
        self.page_bytes: Final = memory.page_bytes
        self.counters: Final = VmCounters()
        self.random: Final = np.random.Generator(np.random.PCG64(settings.seed))
        self.table: Final = FrameTable(max(end for _, end in memory.ranges))
        self.areas: Final[dict[int, Area]] = {}
        self.processes: Final[list[Process]] = []
        self.swap: Final = Swap(settings.swap_bytes // self.page_bytes)
        self.oom_notifiers: Final[list[OomNotifier]] = []
        self.shrinkers: Final[list[Callable[[], int]]] = []  #: give frames at once; return how many
        self.zones: Final = self._make_zones()
        self.hidden_frames = 0  #: in the balloon, and no longer counted as the guest's
        self._poison = None if settings.poison is None else settings.poison * 0x0101010101010101
        parts = (self.table, memory, self.areas, self.swap, self.counters)
        self.reclaim: Final = Reclaim(*parts, free=self.free)
        self.compaction: Final = Compaction(
            self.table, memory, self.areas, self.counters, free=self.free
        )
        self.paging: Final = Paging(*parts, allocate=self._allocate_always, free=self.free)
        self.reporting: Final = PageReporting(
            scheduler, self.zones, (settings.reporting_bytes // self.page_bytes).bit_length() - 1
        )
        self.memory_wanted: Final = Flag()  #: kswapd is to reclaim
        self.next_area = self.next_pid = 1
        if boots:
            self._boot()
            self.start()

    def start(self) -> None:
        """Start the kernel's own tasks; called by whoever fills a kernel that did not boot."""
        self.scheduler.spawn("kswapd", self._kswapd())

    @property
    def managed_frames(self) -> int:
        """What the guest counts as its memory."""
        return sum(zone.managed_frames for zone in self.zones) - self.hidden_frames

    @property
    def free_frames(self) -> int:
        """Frames nobody uses."""
        return sum(zone.free_frames for zone in self.zones)

    @property
    def available_frames(self) -> int:
        """What processes could have without swapping, as MemAvailable estimates it."""
        reserve = sum(zone.high for zone in self.zones)
        low = sum(zone.low for zone in self.zones)
        cached = self.table.count(Use.CACHE)
        return max(0, self.free_frames - reserve + cached - min(cached // 2, low))

    def allocate(
        self, count: int, effort: Effort, use: Use, process: Process | None = None
    ) -> Job[Frames]:
        """Up to so many frames: at least one, unless the effort has an end.

        Raises: ProcessKilled, if `process` was killed for memory; GuestPanicError.
        """
        frames = self._take(count, [zone.low for zone in self.zones])
        if not frames.size:
            self.memory_wanted.set()
            if effort is not Effort.FREE_ONLY:
                yield None  # kswapd's turn
            frames = self._take(count, self._min_marks())
        if not frames.size and effort is not Effort.FREE_ONLY:
            frames = yield from self._allocate_slowly(count, effort, process)
        self.table.use[frames] = use
        self.counters.pgalloc += frames.size
        self._check_poison(frames)
        return frames

    def take_block(self, order: int, use: Use, kind: MigrateType) -> int | None:
        """First frame of a free block, above the lowest watermark; or None."""
        for zone in reversed(self.zones):
            if zone.free_frames - (1 << order) >= zone.min:
                head = zone.buddy.take_block(order, kind)
                if head is not None:
                    frames = np.arange(head, head + (1 << order))
                    self.table.use[frames] = use
                    self.counters.pgalloc += frames.size
                    self._check_poison(frames)
                    return head
        return None

    def allocate_kernel(self, size: int) -> int:
        """Address of so many zeroed bytes that never move. Raises: GuestPanicError."""
        length = self.memory.block_bytes(size)
        order = (length // self.page_bytes).bit_length() - 1
        head = self.take_block(order, Use.KERNEL, MigrateType.UNMOVABLE)
        if head is None:
            raise GuestPanicError(f"no {size} bytes in one piece for the kernel")
        gpa = head * self.page_bytes
        self.memory.view(gpa, length)[:] = bytes(length)
        return gpa

    def free_kernel(self, gpa: int, size: int) -> None:
        """Give back what `allocate_kernel` returned."""
        head, frames = gpa // self.page_bytes, self.memory.block_bytes(size) // self.page_bytes
        self.free(np.arange(head, head + frames))

    def free(self, frames: Frames) -> None:
        """Give frames back to their zones."""
        if not frames.size:
            return
        if self._poison is not None:
            self.memory.fill(frames, self._poison)
        self.table.use[frames] = Use.NONE
        self.counters.pgfree += frames.size
        for zone in self.zones:
            inside = frames[(frames >= zone.buddy.start) & (frames < zone.buddy.end)]
            if inside.size:
                zone.buddy.give(inside)
        self.reporting.note_free(frames.size)

    def start_process(self, name: str) -> Process:
        """A process without memory."""
        process = Process(self.next_pid, name)
        self.next_pid += 1
        self.processes.append(process)
        return process

    def add_area(self, name: str, pages: int, process: Process | None = None) -> Area:
        """Memory of a process, or a file that nobody has read yet."""
        area = Area(self.next_area, name, pages, is_file=process is None, marks=self.settings.marks)
        self.next_area += 1
        self.areas[area.number] = area
        if process is not None:
            process.areas.append(area)
        return area

    def remove_area(self, area: Area) -> None:
        """Unmap memory, or delete a file."""
        self.swap.used -= area.swapped_pages
        self.areas.pop(area.number)
        for process in self.processes:
            if area in process.areas:
                process.areas.remove(area)
        self.free(area.present)

    def end_process(self, process: Process) -> None:
        """A process ends and leaves its memory."""
        process.is_alive = False
        for area in list(process.areas):
            self.remove_area(area)
        if process in self.processes:
            self.processes.remove(process)

    def meminfo(self) -> dict[str, int]:
        """As /proc/meminfo names it, in bytes."""
        frames = {
            "MemTotal": self.managed_frames,
            "MemFree": self.free_frames,
            "MemAvailable": self.available_frames,
            "Cached": self.table.count(Use.CACHE),
            "AnonPages": self.table.count(Use.ANON),
            "SwapTotal": self.swap.total,
            "SwapFree": self.swap.free,
        }
        return {name: count * self.page_bytes for name, count in frames.items()}

    def compact(self) -> Job[int]:
        """What writing to /proc/sys/vm/compact_memory does; returns the frames moved."""
        moved = 0
        for zone in self.zones:
            moved += yield from self.compaction.run(zone)
        return moved

    def _allocate_always(self, count: int, use: Use, process: Process | None) -> Job[Frames]:
        return self.allocate(count, Effort.ALWAYS, use, process)

    def _make_zones(self) -> list[Zone]:
        split = DMA32_END_BYTES // self.page_bytes
        first = min(start for start, _ in self.memory.ranges)
        end = max(end for _, end in self.memory.ranges)
        if end <= split:
            return [Zone("Normal", first, end)]
        return [Zone("DMA32", first, split), Zone("Normal", split, end)]

    def _boot(self) -> None:
        """Give all memory to the zones but what the kernel itself takes."""
        frames = sum(end - start for start, end in self.memory.ranges)
        own = (_IMAGE_BYTES + frames * _FRAME_BYTES) // self.page_bytes
        for start, end in self.memory.ranges:
            taken = min(own, end - start)
            self.table.use[start : start + taken] = Use.KERNEL
            own -= taken
            if self._poison is not None and start + taken < end:
                self.memory.fill(np.arange(start + taken, end), self._poison)
            for zone in self.zones:
                low, high = max(start + taken, zone.buddy.start), min(end, zone.buddy.end)
                if low < high:
                    zone.buddy.give_range(low, high)
                    zone.managed_frames += high - low
        set_watermarks(self.zones, self.page_bytes)
        self.reclaim.file_frames_min = sum(zone.high for zone in self.zones)

    def _take(self, count: int, marks: list[int]) -> Frames:
        """Free frames above each zone's mark, of the highest zone first."""
        parts = []
        for zone, mark in zip(reversed(self.zones), reversed(marks), strict=True):
            allowed = min(count, zone.free_frames - mark)
            if allowed > 0:
                taken = zone.buddy.take(allowed, MigrateType.MOVABLE)
                parts.append(taken)
                count -= taken.size
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _min_marks(self) -> list[int]:
        return [zone.min for zone in self.zones]

    def _allocate_slowly(self, count: int, effort: Effort, process: Process | None) -> Job[Frames]:
        """Reclaim, and if that does not help, kill."""
        retries = deadlocks = 0
        while True:
            self.counters.allocstall += 1
            freed = self._shrink() + self.reclaim.direct(SWAP_CLUSTER)
            frames = self._take(count, self._min_marks())
            if frames.size or effort is Effort.ONCE:
                return frames
            retries = 0 if freed else retries + 1
            if retries > _RETRIES:
                retries = 0
                if not (yield from self._out_of_memory(process)):
                    deadlocks += 1
                    if deadlocks > _DEADLOCKS:
                        raise GuestPanicError("out of memory and no killable processes")
                    yield Sleep(_DEADLOCK_NS)  # pages may be on their way to the host and back
            yield None
            if process is not None and not process.is_alive:
                raise ProcessKilled(process.name)

    def _out_of_memory(self, process: Process | None) -> Job[bool]:
        """Ask for memory to be given, else kill the process with most of it; False if none is."""
        given = 0
        for notifier in self.oom_notifiers:
            given += yield from notifier()
        if given:
            return True
        alive = [one for one in self.processes if one.points]
        if not alive:
            return False
        victim = max(alive, key=lambda one: (one.points, -one.pid))
        self.counters.oom_kill += 1
        self.end_process(victim)
        if victim is process:
            raise ProcessKilled(victim.name)
        return True  # the task of another process notices when it goes on

    def _kswapd(self) -> Job[None]:
        while True:
            yield Rest(self.memory_wanted)
            self.memory_wanted.clear()
            while any(zone.free_frames < zone.high for zone in self.zones):
                if not self._shrink() + self.reclaim.background(SWAP_CLUSTER * 4):
                    break
                yield None

    def _shrink(self) -> int:
        return sum(shrink() for shrink in self.shrinkers)

    def _check_poison(self, frames: Frames) -> None:
        """Freed pages must still hold what they were filled with, unless that is nothing but 0."""
        if self._poison and not self.memory.filled(frames, self._poison):
            raise GuestPanicError("a free page does not hold its poison any more")
