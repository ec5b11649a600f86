"""When the driver is asked for statistics: when somebody wants them, or the interval is over.

For the interval time stands still while no ring runs, and while the operator has stopped the VM.
Not here: the interval, the held buffer and what came in it (statistics.py).
Source: QEMU balloon_stats_poll_cb, virtio_balloon_set_status.
"""

from __future__ import annotations

from ballonet.balloon.stats_reading import StatsDiagnosis
from ballonet.device.queues import Queues
from ballonet.device.statistics import Statistics
from ballonet.virtio.queues import QueueRole

__all__ = ["StatsPolling"]


class StatsPolling:
    """The questions of one device."""

    def __init__(self, statistics: Statistics, queues: Queues) -> None:
        self._statistics, self._queues = statistics, queues
        self.is_paused = False  #: by the operator

    def ask(self) -> None:
        """Ask for a fresh sample; nothing happens unless a buffer is held."""
        if self._queues.broken or not self._queues.has(QueueRole.STATS):
            return
        head = self._statistics.ask()
        if head is not None:
            self._queues.return_held_stats(head)

    def expired(self) -> None:
        """Ask if the interval is over."""
        if self._statistics.expired():
            self.ask()

    def pause(self) -> None:
        """Let time stand still, as it does for a stopped VM."""
        self.is_paused = True
        self._statistics.suspend()

    def unpause(self) -> None:
        """Let time go on."""
        self.is_paused = False
        if not self._queues.are_stopped:
            self._statistics.resume()

    def rings_run(self) -> None:
        """The first ring runs."""
        if not self.is_paused:
            self._statistics.resume()

    def rings_stopped(self) -> None:
        """No ring runs any more: the next buffer is the first of whoever starts them."""
        self._statistics.suspend()
        self._statistics.expect_first()

    def diagnosis(self) -> StatsDiagnosis:
        """Why there are statistics, or none."""
        if self._queues.are_stopped:
            return StatsDiagnosis.NO_DRIVER
        return self._statistics.diagnosis(negotiated=QueueRole.STATS in self._queues.roles)
