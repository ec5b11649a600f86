"""Free page reporting: large free blocks are named to the host, a batch at a time.

A pass begins two seconds after a large block became free, and takes a part of each list only; what
is left waits for the next pass.  While a batch is reported its blocks are nobody's to use; between
passes reporting rests.
Source: Linux mm/page_reporting.c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ballonet.kernel.buddy import MAX_ORDER
from ballonet.kernel.tasks import Flag, Job, Rest, Scheduler, Sleep
from ballonet.kernel.zone import Zone

__all__ = ["BATCH", "Block", "PageReporting", "Report"]

#: First frame and order.
Block = tuple[int, int]
#: Tells the host of blocks; returns when they may be used again.
Report = Callable[[Sequence[Block]], Job[None]]

BATCH: Final = 32
DELAY_NS: Final = 2_000_000_000
_PASSES_FOR_ALL: Final = 16
_STOP_POLL_NS: Final = 1_000_000


class PageReporting:
    """Reporting of all zones; off until `start`."""

    def __init__(self, scheduler: Scheduler, zones: Sequence[Zone], min_order: int) -> None:
        self._scheduler, self._zones, self._min_order = scheduler, zones, min_order
        self._report: Report | None = None
        self.wanted: Final = Flag()  #: something became free
        self.due_ns: int | None = None  #: when the next pass begins, once it is wanted
        self.passes = 0
        self._is_sending = False

    def start(self, report: Report) -> None:
        """Report from now on; one user only. Raises: RuntimeError."""
        self.resume(report)
        self.wanted.set()
        self.due_ns = None

    def resume(self, report: Report) -> None:
        """Go on in a guest that came from elsewhere. Raises: RuntimeError."""
        if self._report is not None:
            raise RuntimeError("free page reporting is in use already")
        self._report = report
        self._scheduler.spawn("page reporting", self._run(report))

    def stop(self) -> Job[None]:
        """Report no more; returns when no batch is under way."""
        self._report = None
        self.wanted.set()
        while self._is_sending:
            yield Sleep(_STOP_POLL_NS)

    def note_free(self, frames: int) -> None:
        """So many frames became free together; cheap, because it happens all the time."""
        if self._report is not None and frames and not self.wanted.is_set:
            self.wanted.set()

    def _run(self, report: Report) -> Job[None]:
        while True:
            yield Rest(self.wanted)
            if self._report is not report:
                return
            if self.due_ns is None:
                self.due_ns = self._scheduler.now_ns + DELAY_NS
            yield Rest(until_ns=self.due_ns)
            if self._report is not report:
                return
            self.due_ns = None
            self.wanted.clear()
            self.passes += 1
            for zone in self._zones:
                if self._report is report and (yield from self._process(zone, report)):
                    self.wanted.set()

    def _process(self, zone: Zone, report: Report) -> Job[bool]:
        """Report a part of each list; True if more is left."""
        if zone.free_frames < zone.low + (BATCH << self._min_order):
            return False
        is_left = False
        batch: list[Block] = []
        for order in range(self._min_order, MAX_ORDER + 1):
            budget = -(-zone.buddy.count_blocks(order) // (BATCH * _PASSES_FOR_ALL)) * BATCH
            blocks = [head for head, known in zone.buddy.free_blocks(order) if not known]
            is_left |= len(blocks) > budget
            for head in blocks[:budget]:
                if not zone.buddy.has_free_block(head, order):
                    continue  # taken while a batch was under way
                zone.buddy.take_exactly(head, order)
                batch.append((head, order))
                if len(batch) == BATCH:
                    yield from self._send(zone, batch, report)
                    batch = []
        if batch:
            yield from self._send(zone, batch, report)
        return is_left

    def _send(self, zone: Zone, batch: list[Block], report: Report) -> Job[None]:
        self._is_sending = True
        try:
            yield from report(batch)
        finally:
            self._is_sending = False
            for head, order in batch:
                zone.buddy.give_block(head, order, reported=True)
