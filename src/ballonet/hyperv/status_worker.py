"""Status reports: once a second, how much memory the guest has and needs.

Linux sends them whether the host wants them or not, and so does this.  It counts what is in the
balloon, and the floor, as needed: the host is to see the pressure as if there were no balloon.
Units: 4 KiB pages.  Source: Linux drivers/hv/hv_balloon.c dm_thread_func, post_status.
"""

from __future__ import annotations

from typing import Final

from ballonet.balloon.clock import NS_PER_S
from ballonet.hyperv.floor import balloon_floor
from ballonet.hyperv.guest_channel import GuestChannel
from ballonet.hyperv.messages import StatusReport
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Flag, Job, Rest
from ballonet.units import bytes_to_pages

__all__ = ["StatusWorker"]

_INTERVAL_NS: Final = NS_PER_S


class StatusWorker:
    """Of one driver."""

    def __init__(self, kernel: Kernel, channel: GuestChannel, delay: int) -> None:
        """`delay`: so many reports are not sent, at first."""
        self.sent_reports = 0
        self._kernel, self._channel = kernel, channel
        self._delay = delay
        self._event: Final = Flag()  # pages came back, or the driver stops
        self._next_ns = self._posted_ns = kernel.scheduler.now_ns

    def run(self) -> Job[None]:
        """Report until the channel is closed."""
        self._posted_ns = self._kernel.scheduler.now_ns
        self._next_ns = self._posted_ns + _INTERVAL_NS
        while self._channel.is_open:
            yield Rest(self._event, self._next_ns)
            self._event.clear()
            self._next_ns = self._kernel.scheduler.now_ns + _INTERVAL_NS
            self.post()

    def wake(self) -> None:
        """Look whether a report is due."""
        self._event.set()

    def post(self) -> None:
        """Report, unless it is too early; a report that finds no room is lost."""
        if self._delay:
            self._delay -= 1
            return
        now_ns = self._kernel.scheduler.now_ns
        if not self._channel.is_open or now_ns - self._posted_ns < _INTERVAL_NS:
            return
        self._posted_ns = now_ns
        self.sent_reports += self._channel.try_to_send(self._report)

    def _report(self, trans_id: int) -> StatusReport:
        kernel = self._kernel
        processes = sum(area.frames.size for area in kernel.areas.values() if not area.is_file)
        committed = self._pages(processes + kernel.table.count(Use.BALLOON))
        floor = balloon_floor(self._pages(kernel.managed_frames))
        return StatusReport(trans_id, self._pages(kernel.available_frames), committed + floor)

    def _pages(self, frames: int) -> int:
        return bytes_to_pages(frames * self._kernel.page_bytes)
