"""Compaction: used pages move to the top of a zone, so that large blocks become free below.

Two scanners walk towards each other until they meet.  Pages of the balloon cannot simply be copied:
whoever owns them is asked.
Units: frames.  Source: Linux mm/compaction.c, mm/migrate.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from ballonet.kernel.areas import Area
from ballonet.kernel.counters import VmCounters
from ballonet.kernel.frames import Frames, FrameTable, Use
from ballonet.kernel.physical import PhysicalMemory
from ballonet.kernel.tasks import Job
from ballonet.kernel.zone import Zone

__all__ = ["Compaction", "MoveBalloonPage"]

#: Moves one page of the balloon from a frame to another; False: not now.
MoveBalloonPage = Callable[[int, int], Job[bool]]

_CLUSTER: Final = 32


class Compaction:
    """Compaction of any zone of one kernel."""

    def __init__(
        self,
        table: FrameTable,
        memory: PhysicalMemory,
        areas: dict[int, Area],
        counters: VmCounters,
        *,
        free: Callable[[Frames], None],
    ) -> None:
        self._table, self._memory, self._areas = table, memory, areas
        self._counters, self._free = counters, free
        self.move_balloon_page: MoveBalloonPage | None = None

    def run(self, zone: Zone) -> Job[int]:
        """Compact a zone; returns the frames moved."""
        moved = 0
        start, end = zone.buddy.start, zone.buddy.end
        at = start
        while at < end:
            window = self._table.use[at:end]
            movable = (window == Use.ANON) | (window == Use.CACHE)
            if self.move_balloon_page is not None:
                movable |= window == Use.BALLOON
            sources = np.flatnonzero(movable[: 1 << 15])[:_CLUSTER] + at
            if not sources.size:
                at += 1 << 15
                continue
            at = int(sources[-1]) + 1
            targets = zone.buddy.take_from_top(sources.size, at)
            if not targets.size:
                break
            self._counters.compact_migrate_scanned += sources.size
            self._counters.compact_isolated += sources.size
            moved += yield from self._move(sources[: targets.size], targets)
            yield None
        return moved

    def _move(self, sources: Frames, targets: Frames) -> Job[int]:
        is_balloon = self._table.use[sources] == Use.BALLOON
        moved = self._move_pages(sources[~is_balloon], targets[~is_balloon])
        pairs = zip(sources[is_balloon].tolist(), targets[is_balloon].tolist(), strict=True)
        for source, target in pairs:
            moved += yield from self._move_balloon(source, target)
        return moved

    def _move_pages(self, sources: Frames, targets: Frames) -> int:
        table = self._table
        self._memory.copy(sources, targets)
        for facts in (table.use, table.area, table.index, table.touched):
            facts[targets] = facts[sources]
        for number in np.flatnonzero(np.bincount(table.area[targets])).tolist():
            chosen = targets[table.area[targets] == number]
            self._areas[number].frames[table.index[chosen]] = chosen
        if sources.size:
            self._free(sources)
        self._counters.pgmigrate_success += sources.size
        return int(sources.size)

    def _move_balloon(self, source: int, target: int) -> Job[int]:
        """Ask the balloon's owner; a page that left it meanwhile stays where it is."""
        moved = False
        if self._table.use[source] == Use.BALLOON and self.move_balloon_page is not None:
            self._table.use[target] = Use.HELD
            moved = yield from self.move_balloon_page(source, target)
        if not moved:
            self._free(np.array([target]))
            self._counters.pgmigrate_fail += 1
            return 0
        self._counters.pgmigrate_success += 1
        return 1
