"""The virtio balloon device behind `Control`.

Theory of operation.  A status is made on the device's thread, so that all of it is of one moment.
One is kept for those who must not wait: it is made anew after each command and, at most so often,
after news of the guest.  An idle device makes none.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeVar

from ballonet.balloon.facts import CommandGiven, Fact, Observe, StatsReceived
from ballonet.balloon.inhibition import InhibitReason
from ballonet.balloon.stats_reading import StatsDiagnosis, StatsReading
from ballonet.control.status import Status
from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.device.hint_round import HINT_LEASE_S
from ballonet.device.statistics import check_poll_interval
from ballonet.errors import GuestError, SettingsError
from ballonet.vhost_user.server import DeviceServer, make_server, serving

__all__ = ["DeviceControl", "HintRounds", "controlling"]

T = TypeVar("T")

_ASK_TIMEOUT_S: Final = 10.0
#: Between two statuses that are kept: each costs some 10 µs of the device's thread.
_LATEST_NS: Final = 2_000_000


class DeviceControl:
    """A `Control`; made before the device runs."""

    def __init__(self, server: DeviceServer) -> None:
        self.server: Final = server
        self._balloon = server.balloon
        self._stats_waiters: list[Future[StatsReading]] = []
        self._has_news = False
        self.hints: Final = HintRounds(self._balloon, self.give)
        self.latest = self._look()  #: of a moment ago
        server.balloon.observers.add(self._observe)
        server.add_timed(self)

    @property
    def deadline_ns(self) -> int | None:
        """When the status that is kept is too old."""
        return self.latest.now_ns + _LATEST_NS if self._has_news else None

    def expired(self) -> None:
        """Make a status to be kept; on the device's thread."""
        self._has_news = False
        self.latest = self._look()

    def look(self) -> Status:
        """A status of now, for those who are on the device's thread."""
        self._balloon.inflation.sort_waiting()  # what names no memory is counted, and waits not
        self.expired()
        return self.latest

    def status(self) -> Status:
        """A status of now. Raises: TimeoutError, if the device does not answer; UsageError."""
        return self.status_soon().result(_ASK_TIMEOUT_S)

    def status_soon(self) -> Future[Status]:
        """The same for those who must not wait here. Raises: UsageError, if it has ended."""
        return self.server.loop.put(self.look)

    def set_target(self, target_pages: int) -> Future[None]:
        """Ask the guest for a balloon of this many balloon pages.

        Raises: SettingsError, unless it fits the 32 bits of `num_pages`; UsageError.
        """
        if not 0 <= target_pages < 1 << 32:
            raise SettingsError("target", target_pages, "0 to 2**32 - 1 pages of 4 KiB")
        return self.give(
            "set target", lambda: self._balloon.set_target(target_pages), pages=target_pages
        )

    def set_poll_interval(self, interval_s: int) -> Future[None]:
        """Ask for statistics every so many seconds, at once the first time; 0: no more.

        Raises: SettingsError, UsageError.
        """
        check_poll_interval(interval_s)
        set_interval = self._balloon.statistics.set_poll_interval
        return self.give("set poll interval", lambda: set_interval(interval_s), seconds=interval_s)

    def request_stats(self) -> Future[None]:
        """Ask the guest for a fresh statistics sample. Raises: UsageError."""
        return self.give("ask for statistics", self._balloon.request_stats)

    def read_stats(self, timeout_s: float) -> StatsReading:
        """Ask the guest for a fresh statistics sample and wait for it.

        Raises: GuestError, saying why if none comes in time.
        """
        answer: Future[StatsReading] = Future()
        self._on_device(lambda: self._stats_waiters.append(answer))
        self.request_stats()
        try:
            return answer.result(timeout_s)
        except TimeoutError as error:
            why = self._on_device(lambda: self._give_up_waiting(answer)).value
            raise GuestError(f"no statistics within {timeout_s} s: {why}") from error

    def expedite(self) -> Future[None]:
        """Have what waits dropped without waiting for a quiet moment. Raises: UsageError."""
        # Observers are told of the discards that it causes, and not of this.
        return self.server.loop.put(self._balloon.ledger.expedite)

    def inhibit(self, reason: InhibitReason) -> Future[None]:
        """Hold discards off; none is under way when this is done. Raises: UsageError."""
        inhibit = self._balloon.inhibition.inhibit
        return self.give("inhibit", lambda: inhibit(reason), reason=reason.value)

    def lift(self, reason: InhibitReason) -> Future[None]:
        """Take back one `inhibit`; the future raises UsageError, if there was none."""
        lift = self._balloon.inhibition.lift
        return self.give("lift", lambda: lift(reason), reason=reason.value)

    def set_report_rate(self, bytes_per_s: int | None) -> Future[None]:
        """Discard at most so much of what the guest reports; 0: nothing, None: everything."""
        set_rate = self._balloon.reporting.throttle.set_rate
        return self.give("limit reports", lambda: set_rate(bytes_per_s), bytes_per_s=bytes_per_s)

    def pause(self) -> Future[None]:
        """Ask for no statistics until `unpause`. Raises: UsageError."""
        return self.give("pause", self._balloon.pause)

    def unpause(self) -> Future[None]:
        """Ask for statistics again, as often as before. Raises: UsageError."""
        return self.give("go on", self._balloon.unpause)

    def subscribe(self, observe: Observe, *, details: bool = False) -> None:
        """Call `observe` on the device's thread for everything that happens from now on."""
        self._balloon.observers.add(observe, details=details)

    def unsubscribe(self, observe: Observe) -> None:
        """Take back `subscribe`."""
        self._balloon.observers.remove(observe)

    def stop(self) -> None:
        """Let the device end; may be called from a signal handler."""
        self.server.stop()

    def give(self, name: str, command: Callable[[], None], **arguments: object) -> Future[None]:
        """Have a command obeyed on the device's thread, and told. Raises: UsageError."""

        def obey() -> None:
            self._tell(name, arguments)
            try:
                self.server.obey(command)
            finally:
                self.expired()  # whoever waits for the command must not see what was before

        return self.server.loop.put(obey)

    def _tell(self, name: str, arguments: Mapping[str, object]) -> None:
        if self._balloon.observers.want_details:
            self._balloon.observers.tell_detail(CommandGiven(name, arguments))

    def _on_device(self, question: Callable[[], T]) -> T:
        return self.server.loop.ask(question, _ASK_TIMEOUT_S)

    def _give_up_waiting(self, answer: Future[StatsReading]) -> StatsDiagnosis:
        self._stats_waiters = [one for one in self._stats_waiters if one is not answer]
        return self._balloon.stats_diagnosis

    def _observe(self, fact: Fact) -> None:
        """There is news; whoever waits for statistics has them."""
        self._has_news = True
        reading = self._balloon.statistics.reading
        if isinstance(fact, StatsReceived) and reading is not None:
            waiters, self._stats_waiters = self._stats_waiters, []
            for waiter in waiters:
                waiter.set_result(reading)

    def _look(self) -> Status:
        balloon, guest = self._balloon, self.server.guest_memory
        poison = balloon.config.poison
        return Status(
            now_ns=time.monotonic_ns(),
            connected=guest is not None,
            running=not balloon.suspended,
            paused=balloon.paused,
            negotiated=balloon.negotiated,
            target_pages=balloon.target_pages,
            actual_pages=balloon.actual_pages,
            guest_bytes=0 if guest is None else guest.total_bytes,
            held_bytes=0 if guest is None else guest.held_bytes(),
            waiting_bytes=balloon.ledger.waiting_bytes,
            counters=replace(balloon.counters),
            stats=balloon.statistics.reading,
            stats_diagnosis=balloon.stats_diagnosis,
            poll_interval_s=balloon.statistics.poll_interval_s,
            hint_state=balloon.hint_round.state.name,
            poison_val=poison.value if poison.is_known else None,
            inhibited=balloon.inhibition.reasons,
            report_bytes_per_s=balloon.reporting.throttle.bytes_per_s,
            broken=balloon.queues.broken,
            problem=self.server.find_problem(),
            request=balloon.request.times,
        )


class HintRounds:
    """Rounds of free page hints, as a migration begins and ends them; hints come as PagesHinted."""

    def __init__(self, balloon: Balloon, give: Callable[..., Future[None]]) -> None:
        self._balloon, self._give = balloon, give

    def begin(self, lease_s: float = HINT_LEASE_S) -> Future[None]:
        """Ask for hints, right after the dirty log was read; ends an older round."""
        return self._give("begin hint round", lambda: self._balloon.begin_hint_round(lease_s))

    def stop(self, lease_s: float = HINT_LEASE_S) -> Future[None]:
        """End the round; when this is done no hint of it will come any more."""
        return self._give("stop hint round", lambda: self._balloon.hint_round.stop(lease_s))

    def finish(self) -> Future[None]:
        """Let the guest take its hinted pages back."""
        return self._give("finish hints", self._balloon.hint_round.done)


@contextmanager
def controlling(settings: BalloonSettings, sock: socket.socket) -> Iterator[DeviceControl]:
    """Serve a device on a thread of its own inside the block, to whoever connects to a socket."""
    server = make_server(settings, sock, listening=True)
    control = DeviceControl(server)
    with serving(server):
        yield control
