"""What a guest of a sibling tells of its memory: Hyper-V's by status reports, VMware's nothing.

A report comes by itself, every second or so while something changes; it cannot be asked for, and
only its available memory has a name among virtio's statistics.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Final

from ballonet.balloon.clock import Clock
from ballonet.balloon.facts import Fact, GuestChanged, StatusReported
from ballonet.balloon.sibling_host import SiblingHost
from ballonet.balloon.stats_reading import StatsDiagnosis, StatsReading
from ballonet.control.status import StatusReports
from ballonet.errors import GuestError, SettingsError, UsageError
from ballonet.runtime.event_loop import EventLoop
from ballonet.virtio.stats import StatsSample

__all__ = ["ReportedStats"]

_INTERVAL_S: Final = 1  #: of Linux's driver
_INTERVAL_S_MAX: Final = (1 << 32) - 1
_ASK_TIMEOUT_S: Final = 10.0


class ReportedStats:
    """A `StatsControl`; observes the host on its own thread."""

    def __init__(
        self, host: SiblingHost, loop: EventLoop, clock: Clock, *, wants_reports: bool | None
    ) -> None:
        """`wants_reports`: whether guests are told to send them; None: there are none at all."""
        self._host, self._loop, self._clock = host, loop, clock
        self._wants_reports = wants_reports
        self._waiters: list[Future[StatsReading]] = []
        self.reading: StatsReading | None = None  #: the newest, as far as statistics have names
        self._newest: StatusReported | None = None
        host.given.observers.add(self._observe)

    @property
    def reports(self) -> StatusReports | None:
        """As Hyper-V's balloon has them; None of VMware's."""
        if self._wants_reports is None:
            return None
        if self._newest is None:
            return StatusReports(self._wants_reports)
        newest = self._newest
        return StatusReports(self._wants_reports, newest.committed_bytes, newest.available_bytes)

    @property
    def poll_interval_s(self) -> int:
        """Seconds between two reports; 0: none come."""
        return _INTERVAL_S if self._wants_reports else 0

    def set_poll_interval(self, interval_s: int) -> Future[None]:
        """Changes nothing where reports come: the guest sends them by itself.

        Raises: SettingsError; UsageError, where none come.
        """
        if not 0 <= interval_s <= _INTERVAL_S_MAX:
            raise SettingsError("poll interval", interval_s, f"0 to {_INTERVAL_S_MAX} s")
        return self.request()

    def request(self) -> Future[None]:
        """The same. Raises: UsageError, where none come."""
        obstacle = self._obstacle
        if obstacle is not None:
            raise UsageError(obstacle.value)
        return self._loop.put(lambda: None)

    def read(self, timeout_s: float) -> StatsReading:
        """Wait for the next report. Raises: GuestError, saying why if none comes in time."""
        obstacle = self._obstacle
        if obstacle is not None:
            raise GuestError(obstacle.value)
        answer: Future[StatsReading] = Future()
        self._loop.post(lambda: self._waiters.append(answer))
        try:
            return answer.result(timeout_s)
        except TimeoutError as error:
            why = self._loop.ask(lambda: self._give_up(answer), _ASK_TIMEOUT_S).value
            raise GuestError(f"no status report within {timeout_s} s: {why}") from error

    def diagnosis(self) -> StatsDiagnosis:
        """Why there are statistics, or none."""
        obstacle = self._obstacle
        if obstacle is not None:
            return obstacle
        if not self._host.is_running:
            return StatsDiagnosis.NO_DRIVER
        return StatsDiagnosis.NO_VALUES if self.reading is None else StatsDiagnosis.ANSWERED

    @property
    def _obstacle(self) -> StatsDiagnosis | None:
        if self._wants_reports is None:
            return StatsDiagnosis.NOT_IN_PROTOCOL
        return None if self._wants_reports else StatsDiagnosis.NOT_WANTED

    def _give_up(self, answer: Future[StatsReading]) -> StatsDiagnosis:
        self._waiters = [one for one in self._waiters if one is not answer]
        return self.diagnosis()

    def _observe(self, fact: Fact) -> None:
        match fact:
            case StatusReported(_, available_bytes):
                self._newest = fact
                sample = StatsSample({"avail": available_bytes})
                self.reading = StatsReading(
                    sample, self._clock.now_ns(), self._clock.wall_s(), is_first=False
                )
                waiters, self._waiters = self._waiters, []
                for waiter in waiters:
                    waiter.set_result(self.reading)
            case GuestChanged():
                self._newest = self.reading = None
