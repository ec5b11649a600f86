"""Pages of processes and files: used, and brought in where none is.

Each page that is written gets a mark that no other page and no other time has; a page that does not
hold its mark when it is used next was lost.
Source: Linux mm/memory.c handle_mm_fault, mm/filemap.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from ballonet.errors import GuestPanicError
from ballonet.kernel.areas import IN_SWAP, Area, Process, Swap
from ballonet.kernel.counters import VmCounters
from ballonet.kernel.frames import Frames, FrameTable, Use
from ballonet.kernel.physical import PhysicalMemory
from ballonet.kernel.tasks import Job

__all__ = ["Paging"]

_CHUNK: Final = 1024
_MARKS: Final = (1 << 32) - 1


class Paging:
    """The pages of one kernel's areas."""

    def __init__(
        self,
        table: FrameTable,
        memory: PhysicalMemory,
        areas: dict[int, Area],
        swap: Swap,
        counters: VmCounters,
        *,
        allocate: Callable[[int, Use, Process | None], Job[Frames]],
        free: Callable[[Frames], None],
    ) -> None:
        """`allocate`: up to so many frames and at least one, whatever has to go for them."""
        self._table, self._memory, self._areas = table, memory, areas
        self._swap, self._counters = swap, counters
        self._allocate, self._free = allocate, free
        self.next_mark = 1

    def touch(
        self, area: Area, indexes: Frames, *, write: bool, process: Process | None = None
    ) -> Job[None]:
        """Read or write pages, each named once; those that are not there are brought in.

        Raises: ProcessKilled; GuestPanicError, if a page does not hold what it must.
        """
        for start in range(0, indexes.size, _CHUNK):
            rest = indexes[start : start + _CHUNK]
            if area.number not in self._areas:
                return  # its process was killed meanwhile, and its frames are another's
            while rest.size:
                present = area.frames[rest] >= 0
                self._access(area, rest[present], write=write)
                rest = rest[~present]
                if rest.size:
                    rest = yield from self._fault(area, rest, process, write=write)
                if area.number not in self._areas:
                    return
            yield None

    def _fault(
        self, area: Area, indexes: Frames, process: Process | None, *, write: bool
    ) -> Job[Frames]:
        """Bring in as many pages as there are frames for, and use them; returns the others."""
        use = Use.CACHE if area.is_file else Use.ANON
        frames = yield from self._allocate(indexes.size, use, process)
        if area.number not in self._areas:
            self._free(frames)
            return indexes
        absent = indexes[area.frames[indexes] < 0]  # somebody else may have been faster
        used = absent[: frames.size]
        self._free(frames[used.size :])
        self._bring_in(area, used, frames[: used.size])
        self._access(area, used, write=write)
        return np.setdiff1d(indexes, used, assume_unique=True)

    def _bring_in(self, area: Area, indexes: Frames, frames: Frames) -> None:
        """Put frames under pages that have none."""
        swapped = area.frames[indexes] == IN_SWAP
        count = int(np.count_nonzero(swapped))
        self._counters.pgfault += frames.size
        if area.is_file:
            self._counters.pgmajfault += frames.size
            self._counters.pgpgin += frames.size
        else:
            self._counters.pgmajfault += count
            self._counters.pswpin += count
            self._swap.used -= count
        area.frames[indexes] = frames
        self._table.area[frames] = area.number
        self._table.index[frames] = indexes
        self._table.touched[frames] = self._table.tick()
        if area.marks is not None and area.is_file:
            fresh = indexes[area.marks[indexes] == 0]
            area.marks[fresh] = self._new_mark()
        words = area.words(indexes)
        if words is not None:
            self._memory.fill(frames, 0)
            self._memory.mark(frames, words)

    def _access(self, area: Area, indexes: Frames, *, write: bool) -> None:
        """Use pages that are there."""
        frames = area.frames[indexes]
        self._table.touched[frames] = self._table.tick()
        words = area.words(indexes)
        if words is not None and not self._memory.marked(frames, words):
            raise GuestPanicError(f"a page of {area.name} does not hold what was written to it")
        if not write:
            return
        if area.is_file:
            area.dirty[indexes] = True
        if area.marks is not None:
            area.marks[indexes] = self._new_mark()
        words = area.words(indexes)
        if words is not None:
            self._memory.mark(frames, words)

    def _new_mark(self) -> int:
        """What no other time has; together with its index, no other page."""
        self.next_mark = self.next_mark % _MARKS + 1
        return self.next_mark
