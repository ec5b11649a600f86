"""The reporting queue: free memory that is dropped and answered for at once.

A chain has up to 32 writable pieces, each a free block of the guest.  The driver keeps the blocks
from its guest until the chain is answered, so that happens whatever becomes of them.
Source: VIRTIO 1.4 5.5.6.7; Linux page_reporting_process_zone; QEMU virtio_balloon_handle_report.
"""

from __future__ import annotations

from collections.abc import Iterator

from ballonet.device.clock import Clock
from ballonet.device.counters import Counters
from ballonet.device.effects import Effect, Emit, PagesRejected, PagesReported
from ballonet.device.inflation import BalloonMemory
from ballonet.device.inhibition import Inhibition
from ballonet.device.report_throttle import ReportThrottle
from ballonet.memory.runs import find_pieces, locate_runs
from ballonet.units import pages_to_bytes
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain

__all__ = ["Reporting"]


class Reporting:
    """The reporting queue of one device."""

    def __init__(self, counters: Counters, inhibition: Inhibition, clock: Clock) -> None:
        self.throttle = ReportThrottle(clock)
        self._counters, self._inhibition = counters, inhibition

    def serve(self, chain: Chain, memory: BalloonMemory, *, may_discard: bool) -> Iterator[Effect]:
        """Discard what a chain reports, if the guest's poison and the limit allow it."""
        runs, rejected = find_pieces(chain.writable, memory.table)
        reported_bytes = pages_to_bytes(runs.total_pages)
        self._counters.report_messages += 1
        self._counters.reported_bytes += reported_bytes
        if rejected:
            self._counters.rejected_pieces += rejected
            yield Emit(PagesRejected(QueueRole.REPORTING, rejected))
        is_kept = not may_discard or not self.throttle.admits(reported_bytes)
        if is_kept:
            self._counters.kept_report_bytes += reported_bytes
        else:
            yield from self._inhibition.discard(locate_runs(runs, memory.table).ranges)
        yield Emit(PagesReported(reported_bytes, is_kept))
