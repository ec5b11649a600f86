"""Free page reporting: batches of free blocks, each batch one chain, on behalf of the kernel.

Source: VIRTIO 1.4 5.5.6.7; Linux virtballoon_free_page_report.
"""

from __future__ import annotations

from collections.abc import Sequence

from ballonet.driver.queue import DriverQueue
from ballonet.kernel.page_reporting import Block
from ballonet.kernel.tasks import Job

__all__ = ["ReportWorker"]


class ReportWorker:
    """The reporting queue."""

    def __init__(self, queue: DriverQueue, page_bytes: int) -> None:
        self.chains = 0
        self._queue, self._page_bytes = queue, page_bytes

    def report(self, blocks: Sequence[Block]) -> Job[None]:
        """Tell the device of free blocks; returns when they may be used again."""
        longest = self._queue.ring.size
        for start in range(0, len(blocks), longest):
            pieces = [
                (head * self._page_bytes, self._page_bytes << order)
                for head, order in blocks[start : start + longest]
            ]
            self.chains += 1
            yield from self._queue.wait(self._queue.send([], pieces))
