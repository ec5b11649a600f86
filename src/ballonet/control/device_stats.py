"""A virtio balloon's statistics, behind `StatsControl`."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Final

from ballonet.balloon.facts import Fact, StatsReceived
from ballonet.balloon.stats_reading import StatsDiagnosis, StatsReading
from ballonet.control.commands import Commands
from ballonet.device.statistics import check_poll_interval
from ballonet.errors import GuestError
from ballonet.vhost_user.server import DeviceServer

__all__ = ["DeviceStats"]

_ASK_TIMEOUT_S: Final = 10.0


class DeviceStats:
    """A `StatsControl`."""

    def __init__(self, server: DeviceServer, commands: Commands) -> None:
        self._server, self._balloon, self._commands = server, server.balloon, commands
        self._waiters: list[Future[StatsReading]] = []
        server.balloon.observers.add(self._observe)

    def set_poll_interval(self, interval_s: int) -> Future[None]:
        """Ask for statistics every so many seconds, at once the first time; 0: no more.

        Raises: SettingsError, UsageError.
        """
        check_poll_interval(interval_s)
        return self._commands.give(
            "set poll interval",
            lambda: self._balloon.statistics.set_poll_interval(interval_s),
            seconds=interval_s,
        )

    def change_poll_interval(self, interval_s: int, instead_of_s: int) -> Future[None]:
        """The same, unless somebody has chosen another interval than `instead_of_s` before.

        Raises: SettingsError, UsageError.
        """
        check_poll_interval(interval_s)
        statistics = self._balloon.statistics

        def change() -> None:  # looked at when it is obeyed: another command may come before
            if statistics.poll_interval_s == instead_of_s:
                statistics.set_poll_interval(interval_s)

        return self._commands.give(
            "change poll interval", change, seconds=interval_s, instead_of=instead_of_s
        )

    def request(self) -> Future[None]:
        """Ask the guest for a fresh sample. Raises: UsageError."""
        return self._commands.give("ask for statistics", self._balloon.polling.ask)

    def read(self, timeout_s: float) -> StatsReading:
        """Ask the guest for a fresh sample and wait for it.

        Raises: GuestError, saying why if none comes in time.
        """
        answer: Future[StatsReading] = Future()
        loop = self._server.loop
        loop.post(lambda: self._waiters.append(answer))
        self.request()
        try:
            return answer.result(timeout_s)
        except TimeoutError as error:
            why = loop.ask(lambda: self._give_up(answer), _ASK_TIMEOUT_S).value
            raise GuestError(f"no statistics within {timeout_s} s: {why}") from error

    def _give_up(self, answer: Future[StatsReading]) -> StatsDiagnosis:
        self._waiters = [one for one in self._waiters if one is not answer]
        return self._balloon.polling.diagnosis()

    def _observe(self, fact: Fact) -> None:
        """Whoever waits for statistics has them."""
        reading = self._balloon.statistics.reading
        if isinstance(fact, StatsReceived) and reading is not None:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.set_result(reading)
