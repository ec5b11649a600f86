"""The reporting queue: free memory that is dropped and answered for at once.

A chain has up to 32 writable pieces, each a free block of the guest.  The driver keeps the blocks
from its guest until the chain is answered, so that happens whatever becomes of them.
Source: VIRTIO 1.4 5.5.6.7; Linux page_reporting_process_zone; QEMU virtio_balloon_handle_report.
"""

from __future__ import annotations

from collections.abc import Iterator

from ballonet.balloon.clock import Clock
from ballonet.balloon.counters import Counters
from ballonet.balloon.discarder import Discarder
from ballonet.balloon.facts import ChainDone, Observers, PagesRejected, PagesReported
from ballonet.device.guest_link import GuestLink
from ballonet.device.poison import PagePoison
from ballonet.device.report_throttle import ReportThrottle
from ballonet.memory.runs import find_pieces, locate_runs
from ballonet.units import pages_to_bytes
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain

__all__ = ["Reporting"]


class Reporting:
    """The reporting queue of one device."""

    def __init__(
        self,
        link: GuestLink,
        discarder: Discarder,
        poison: PagePoison,
        counters: Counters,
        observers: Observers,
        clock: Clock,
    ) -> None:
        self.throttle = ReportThrottle(clock)
        self._link, self._discarder, self._poison = link, discarder, poison
        self._counters, self._observers = counters, observers

    def serve(self, chain: Chain) -> Iterator[None]:
        """Discard what a chain reports, if poison and limit allow it; before it is answered."""
        runs, rejected = find_pieces(chain.writable, self._link.memory.table)
        reported_bytes = pages_to_bytes(runs.total_pages)
        self._counters.report_messages += 1
        self._counters.reported_bytes += reported_bytes
        if rejected:
            self._counters.rejected_pieces += rejected
            self._observers.tell(PagesRejected(QueueRole.REPORTING, rejected))
        is_skipped = not self._poison.allows_discard() or not self.throttle.admits(reported_bytes)
        if is_skipped:
            self._counters.skipped_report_bytes += reported_bytes
        else:
            found = locate_runs(runs, self._link.memory.table).ranges
            yield from self._discarder.discard(self._link.memory, found)
        self._observers.tell(PagesReported(reported_bytes, is_skipped))
        if self._observers.want_details:
            self._observers.tell_detail(ChainDone(QueueRole.REPORTING, runs.total_pages))
