"""Statistics: one buffer, always with the device, which returns it to ask for fresh values.

Source: VIRTIO 1.4 5.5.6.3; Linux update_balloon_stats, stats_handle_request.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from ballonet.driver.queue import DriverQueue
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Job
from ballonet.virtio.stats import STATS

__all__ = ["STATS_BUFFER_BYTES", "StatsWorker"]

_ENTRY: Final = Struct("<HQ")
_TAGS: Final = {row.name: row.tag for row in STATS}
STATS_BUFFER_BYTES: Final = _ENTRY.size * len(STATS)


class StatsWorker:
    """The statistics queue."""

    def __init__(self, kernel: Kernel, queue: DriverQueue, buffer_gpa: int) -> None:
        self.head: int | None = None  #: of the chain that the device has
        self._kernel, self._queue, self._buffer_gpa = kernel, queue, buffer_gpa

    def run(self) -> Job[None]:
        """Answer every question of the device, for ever; the first answer is given unasked.

        It rests while the device has the buffer, which may be for ever.
        """
        while True:
            if self.head is not None:
                yield from self._queue.rest_until_used(self.head, self._now_ns)
            raw = b"".join(_ENTRY.pack(_TAGS[name], value) for name, value in self._values())
            self._kernel.memory.view(self._buffer_gpa, len(raw))[:] = raw
            self.head = self._queue.send([(self._buffer_gpa, len(raw))])

    def _now_ns(self) -> int:
        return self._kernel.scheduler.now_ns

    def _values(self) -> list[tuple[str, int]]:
        """In Linux's order; bytes, but for faults, kills and stalls."""
        kernel, counters, page = self._kernel, self._kernel.counters, self._kernel.page_bytes
        return [
            ("swap_in", counters.pswpin * page),
            ("swap_out", counters.pswpout * page),
            ("majflt", counters.pgmajfault),
            ("minflt", counters.pgfault),
            ("oom_kill", counters.oom_kill),
            ("alloc_stall", counters.allocstall),
            ("async_scan", counters.pgscan_kswapd * page),
            ("direct_scan", counters.pgscan_direct * page),
            ("async_reclaim", counters.pgsteal_kswapd * page),
            ("direct_reclaim", counters.pgsteal_direct * page),
            ("memfree", kernel.free_frames * page),
            ("memtot", kernel.managed_frames * page),
            ("avail", kernel.available_frames * page),
            ("caches", kernel.table.count(Use.CACHE) * page),
        ]
