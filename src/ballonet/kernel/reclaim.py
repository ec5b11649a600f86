"""Reclaim: pages that were not used for long are dropped or swapped out.

Instead of two lists there is one order, by the time of the last touch: a batch of the oldest pages
is looked up and worked off, and a page touched meanwhile is left alone, as Linux leaves a
referenced one.  Pages of files go first, as long as there are enough of them; anonymous pages need
swap.
Units: frames.  Source: Linux mm/vmscan.c (which has more lists, and the same outcome).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import GuestPanicError
from ballonet.kernel.areas import ABSENT, IN_SWAP, Area, Swap
from ballonet.kernel.counters import VmCounters
from ballonet.kernel.frames import Frames, FrameTable, Use
from ballonet.kernel.physical import PhysicalMemory

__all__ = ["LOOKUP", "SWAP_CLUSTER", "Reclaim"]

LOOKUP: Final = 32_768  #: candidates looked up at once
SWAP_CLUSTER: Final = 32  #: pages a direct reclaim is content with


class Reclaim:
    """Reclaim of all zones together."""

    def __init__(
        self,
        table: FrameTable,
        memory: PhysicalMemory,
        areas: dict[int, Area],
        swap: Swap,
        counters: VmCounters,
        *,
        free: Callable[[Frames], None],
    ) -> None:
        self._table, self._memory, self._areas = table, memory, areas
        self._swap, self._counters, self._free = swap, counters, free
        self.oldest: Frames = np.empty(0, np.int64)  #: candidates, up to LOOKUP
        self.oldest_touched: NDArray[np.uint32] = np.empty(0, np.uint32)  #: as it was when found
        self.file_frames_min = 0  #: with fewer, anonymous pages are taken too

    def direct(self, count: int) -> int:
        """Reclaim for a task that needs memory now; returns the frames freed."""
        found, scanned = self._find(count)
        self._counters.pgscan_direct += scanned
        self._counters.pgsteal_direct += found.size
        return self._evict(found)

    def background(self, count: int) -> int:
        """Reclaim as kswapd; returns the frames freed."""
        found, scanned = self._find(count)
        self._counters.pgscan_kswapd += scanned
        self._counters.pgsteal_kswapd += found.size
        return self._evict(found)

    def drop_cache(self) -> int:
        """Drop every page of every file; returns the frames freed."""
        self._counters.drop_pagecache += 1
        return self._evict(self._table.used_as(Use.CACHE))

    def _find(self, count: int) -> tuple[Frames, int]:
        """Up to so many of the oldest pages, and how many were looked at."""
        found: list[Frames] = []
        scanned = 0
        for is_fresh in (False, True):
            if is_fresh:
                self._look_up()
            while count > 0 and self.oldest.size:
                batch, self.oldest = self.oldest[:count], self.oldest[count:]
                seen, self.oldest_touched = (
                    self.oldest_touched[:count],
                    self.oldest_touched[count:],
                )
                scanned += batch.size
                unused = self._table.touched[batch] == seen
                unused &= np.isin(self._table.use[batch], self._uses())
                found.append(batch[unused])
                count -= int(np.count_nonzero(unused))
            if count <= 0:
                break
        everything = np.concatenate(found) if found else np.empty(0, np.int64)
        # A frame may have been found in both rounds, or twice over a change of its page.
        return np.flatnonzero(np.bincount(everything)) if everything.size else everything, scanned

    def _uses(self) -> list[int]:
        """What may be reclaimed now."""
        if self._swap.free <= 0:
            return [Use.CACHE]
        if self._table.count(Use.CACHE) > self.file_frames_min:
            return [Use.CACHE]
        return [Use.CACHE, Use.ANON]

    def _look_up(self) -> None:
        candidates = np.flatnonzero(np.isin(self._table.use, self._uses()))
        touched = self._table.touched[candidates]
        if candidates.size > LOOKUP:
            chosen = np.argpartition(touched, LOOKUP)[:LOOKUP]
            candidates, touched = candidates[chosen], touched[chosen]
        order = np.argsort(touched, kind="stable")
        self.oldest, self.oldest_touched = candidates[order], touched[order]

    def _evict(self, frames: Frames) -> int:
        """Take pages away from their areas; returns the frames freed."""
        is_anon = self._table.use[frames] == Use.ANON
        anon = frames[is_anon][: self._swap.free]
        frames = np.concatenate((frames[~is_anon], anon))
        for number in np.flatnonzero(np.bincount(self._table.area[frames])).tolist():
            of_area = frames[self._table.area[frames] == number]
            self._forget(self._areas[number], of_area)
        if frames.size:
            self._free(frames)
        return int(frames.size)

    def _forget(self, area: Area, frames: Frames) -> None:
        indexes = self._table.index[frames].astype(np.int64)
        words = area.words(indexes)
        if words is not None and not self._memory.marked(frames, words):
            raise GuestPanicError(f"a page of {area.name} changed while nobody used it")
        if area.is_file:
            self._counters.pgpgout += int(np.count_nonzero(area.dirty[indexes]))
            area.dirty[indexes] = False
            area.frames[indexes] = ABSENT
        else:
            self._counters.pswpout += frames.size
            self._swap.used += frames.size
            area.frames[indexes] = IN_SWAP
