"""The back-end: one balloon device, served to one front-end after another.

Everything runs on the thread of its loop, which `run` serves.  The other methods may be called from
any thread.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Final, TypeVar

from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.device.clock import NS_PER_S, earliest
from ballonet.device.counters import Counters
from ballonet.device.effects import Effect, Emit, Event, StatsReceived
from ballonet.device.hint_round import HINT_LEASE_S
from ballonet.device.inhibition import InhibitReason
from ballonet.device.request import RequestTimes, Stage
from ballonet.device.statistics import StatsDiagnosis, StatsReading, check_poll_interval
from ballonet.errors import GuestError, SettingsError
from ballonet.vhost_user.connection import Connection
from ballonet.vhost_user.event_loop import EventLoop
from ballonet.vhost_user.mailbox import Mailbox
from ballonet.vhost_user.quiet_log import QuietLog
from ballonet.vhost_user.state_file import StateFile
from ballonet.vhost_user.system_clock import SystemClock
from ballonet.virtio.features import Feature
from ballonet.virtio.stats import StatsSample

__all__ = ["DeviceServer", "Glance", "Snapshot", "serving"]

T = TypeVar("T")

_ASK_TIMEOUT_S: Final = 10.0
#: After a refusal of the system, as when descriptors run out.
_ACCEPT_AGAIN_NS: Final = 500_000_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known about the device at one moment."""

    connected: bool
    running: bool  #: a driver's rings are served
    negotiated: Feature
    target_pages: int
    actual_pages: int
    guest_bytes: int  #: memory the front-end shares with us
    held_bytes: int  #: host memory that stands behind it now, measured
    counters: Counters
    stats: StatsReading | None
    stats_age_s: float | None
    stats_diagnosis: StatsDiagnosis
    poll_interval_s: int
    hint_state: str
    poison_val: int | None  #: None: not written since the driver started
    waiting_bytes: int  #: in the balloon, and to be dropped in a quiet moment
    inhibited: tuple[InhibitReason, ...]
    report_bytes_per_s: int | None  #: limit of what is discarded of reports; None: none
    broken: str | None  #: how the driver broke the device
    problem: str | None  #: what has to be mended at the front-end
    paused: bool
    stage: Stage
    request: RequestTimes
    now_ns: int  #: by the clock of the request's times

    @property
    def sample(self) -> StatsSample | None:
        """What the driver said last."""
        return None if self.stats is None else self.stats.sample


@dataclass(frozen=True, slots=True)
class Glance:
    """What a monitor shows again and again."""

    guest_bytes: int
    target_pages: int
    actual_pages: int
    stats: StatsReading | None
    stage: Stage
    poll_interval_s: int
    paused: bool  #: by the operator


def _ignore(_: Event) -> None:
    """For servers nobody observes."""


class DeviceServer:
    """Owns the socket it is given; `listening` says whether front-ends still have to connect."""

    def __init__(
        self,
        settings: BalloonSettings,
        sock: socket.socket,
        *,
        listening: bool,
        observe: Callable[[Event], None] = _ignore,
        state_path: Path | None = None,
    ) -> None:
        self._clock = SystemClock()
        self._quiet = QuietLog(_log)
        self._balloon = self._make_balloon(settings)
        self._state_file = None if state_path is None else StateFile(state_path, self._clock)
        self._restore()
        self._stats_waiters: list[Future[StatsReading]] = []
        self.loop: Final = EventLoop(self._work, self._deadline_ns)  #: served by `run`
        self._target: Mailbox[int] = Mailbox(self.loop.post, self._take_target)
        self._poll_interval: Mailbox[int] = Mailbox(
            self.loop.post, self._balloon.statistics.set_poll_interval
        )
        self._paused: Mailbox[bool] = Mailbox(self.loop.post, self._take_paused)
        self._sock = sock
        self._observers: tuple[Callable[[Event], None], ...] = (observe,)
        self._connection: Connection | None = None
        self._listening = listening
        self._accept_at_ns: int | None = None  #: when to listen again
        if listening:
            sock.settimeout(0)
            self.loop.register(sock.fileno(), self._accept)
        else:
            self._connect(sock)

    def run(self) -> None:
        """Serve until stopped or, with a connected socket, until the front-end leaves."""
        try:
            self.loop.run()
        finally:
            self.close()
            self.loop.close()

    def close(self) -> None:
        """Hang up, on the thread of the loop; whoever made the socket closes it."""
        if self._connection is not None:
            self._connection.flush()
        if self._state_file is not None:
            self._state_file.save(self._balloon.save())
        if self._listening:
            self.loop.unregister(self._sock.fileno())
        if self._connection is not None:
            self._connection.close()

    def stop(self) -> None:
        """Let the device end; may be called from a signal handler."""
        self.loop.stop()

    def set_target(self, target_pages: int) -> None:
        """Ask the guest for a balloon of this many balloon pages; returns at once.

        Raises: SettingsError, unless it fits the 32 bits of `num_pages`.
        """
        if not 0 <= target_pages < 1 << 32:
            raise SettingsError("target", target_pages, "0 to 2**32 - 1 pages of 4 KiB")
        self._target.put(target_pages)

    def subscribe(self, observe: Callable[[Event], None]) -> None:
        """Call `observe` on the device's thread for everything that happens from now on."""
        self._observers = (*self._observers, observe)

    def unsubscribe(self, observe: Callable[[Event], None]) -> None:
        """Take back `subscribe`."""
        self._observers = tuple(one for one in self._observers if one != observe)

    def set_poll_interval(self, interval_s: int) -> None:
        """Ask for statistics every so many seconds, at once the first time; 0: no more.

        Raises: SettingsError.
        """
        check_poll_interval(interval_s)
        self._poll_interval.put(interval_s)

    def request_stats(self) -> None:
        """Ask the guest for a fresh statistics sample; returns at once."""
        self._post(self._balloon.request_stats)

    def read_stats(self, timeout_s: float) -> StatsReading:
        """Ask the guest for a fresh statistics sample and wait for it.

        Raises: GuestError, saying why if none comes in time.
        """
        answer: Future[StatsReading] = Future()
        self._ask(lambda: self._stats_waiters.append(answer))
        self.request_stats()
        try:
            return answer.result(timeout_s)
        except TimeoutError as error:
            why = self._ask(lambda: self._give_up_waiting(answer)).value
            raise GuestError(f"no statistics within {timeout_s} s: {why}") from error

    def begin_hint_round(self, lease_s: float = HINT_LEASE_S) -> None:
        """Ask the guest for free page hints; they come as PagesHinted events."""
        self._post(lambda: self._balloon.begin_hint_round(lease_s))

    def stop_hint_round(self, lease_s: float = HINT_LEASE_S) -> None:
        """End the round; when this returns no hint of it will come any more."""
        self._ask(lambda: self._perform(self._balloon.stop_hint_round(lease_s)))

    def finish_hints(self) -> None:
        """Let the guest take its hinted pages back."""
        self._post(self._balloon.finish_hints)

    def drain(self) -> None:
        """Drop what was put off without waiting for a quiet moment; returns at once.

        `waiting_bytes` of a snapshot says when it is done.
        """
        self.loop.post(self._balloon.ledger.expedite)

    def inhibit(self, reason: InhibitReason) -> None:
        """Hold discards off; when this returns none is under way."""
        self._ask(lambda: self._balloon.inhibition.inhibit(reason))

    def lift(self, reason: InhibitReason) -> None:
        """Take back one `inhibit`. Raises: UsageError, if there was none."""
        self._ask(lambda: self._balloon.inhibition.lift(reason))

    def set_report_rate(self, bytes_per_s: int | None) -> None:
        """Discard at most so much of what the guest reports; 0: nothing, None: everything."""
        self.loop.post(lambda: self._balloon.reporting.throttle.set_rate(bytes_per_s))

    def pause(self) -> None:
        """Ask for no statistics until `unpause`."""
        self._paused.put(value=True)

    def unpause(self) -> None:
        """Ask for statistics again, as often as before."""
        self._paused.put(value=False)

    def snapshot(self) -> Snapshot:
        """Look at the device, all at one moment. Raises: TimeoutError, if it does not run."""
        return self._ask(self._look)

    def snapshot_soon(self) -> Future[Snapshot]:
        """The same for those who must not wait here. Raises: UsageError, if it has ended."""
        return self.loop.put(self._look)

    def peek(self) -> Glance:
        """Look at the device without waiting for its thread: each value is true by itself."""
        connection, balloon = self._connection, self._balloon
        return Glance(
            guest_bytes=connection.memory.total_bytes if connection else 0,
            target_pages=self._target.newest(balloon.target_pages),
            actual_pages=balloon.actual_pages,
            stats=balloon.statistics.reading,
            stage=balloon.stage,
            poll_interval_s=self._poll_interval.newest(balloon.statistics.poll_interval_s),
            paused=self._paused.newest(balloon.paused),
        )

    def _ask(self, question: Callable[[], T]) -> T:
        return self.loop.ask(question, _ASK_TIMEOUT_S)

    def _post(self, effects: Callable[[], Iterator[Effect]]) -> None:
        self.loop.post(lambda: self._perform(effects()))

    def _take_target(self, target_pages: int) -> None:
        effects = self._balloon.set_target(target_pages)
        self._perform(effects)
        for _ in effects:
            pass  # a connection that was cut just now obeys nothing; the device must know it yet

    def _take_paused(self, paused: bool) -> None:  # noqa: FBT001 - the value of a mailbox
        if paused:
            self._balloon.pause()
        else:
            self._balloon.unpause()

    def _give_up_waiting(self, answer: Future[StatsReading]) -> StatsDiagnosis:
        self._stats_waiters = [one for one in self._stats_waiters if one is not answer]
        return self._balloon.stats_diagnosis

    def _perform(self, effects: Iterator[Effect]) -> None:
        """Obey effects of the device; with no front-end it is suspended and touches nothing."""
        if self._connection is not None:
            self._connection.obey(effects)
            return
        for effect in effects:
            if not isinstance(effect, Emit):
                raise AssertionError(f"a suspended device asked for {effect}")  # noqa: TRY004 - our own bug
            self._observed(effect.event)

    def _look(self) -> Snapshot:
        self._perform(self._balloon.sort_waiting())
        memory = self._connection.memory if self._connection else None
        balloon, reading = self._balloon, self._balloon.statistics.reading
        poison = balloon.config.poison
        return Snapshot(
            connected=self._connection is not None,
            running=not balloon.suspended,
            negotiated=balloon.negotiated,
            target_pages=balloon.target_pages,
            actual_pages=balloon.actual_pages,
            guest_bytes=memory.total_bytes if memory else 0,
            held_bytes=memory.held_bytes() if memory else 0,
            counters=replace(balloon.counters),
            stats=reading,
            stats_age_s=None if reading is None else self._age_s(reading),
            stats_diagnosis=balloon.stats_diagnosis,
            poll_interval_s=balloon.statistics.poll_interval_s,
            hint_state=balloon.hint_round.state.name,
            poison_val=poison.value if poison.is_known else None,
            waiting_bytes=balloon.ledger.waiting_bytes,
            inhibited=balloon.inhibition.reasons,
            report_bytes_per_s=balloon.reporting.throttle.bytes_per_s,
            broken=balloon.broken,
            problem=self._connection.find_problem() if self._connection else None,
            paused=balloon.paused,
            stage=balloon.stage,
            request=balloon.request.times,
            now_ns=self._clock.now_ns(),
        )

    def _age_s(self, reading: StatsReading) -> float:
        return (self._clock.now_ns() - reading.received_ns) / NS_PER_S

    def _observed(self, event: Event) -> None:
        """Answer whoever waits for statistics, and tell the observer."""
        reading = self._balloon.statistics.reading
        if isinstance(event, StatsReceived) and reading is not None:
            waiters, self._stats_waiters = self._stats_waiters, []
            for waiter in waiters:
                waiter.set_result(reading)
        for observe in self._observers:
            observe(event)

    def _restore(self) -> None:
        """Go on where an earlier process stopped. Raises: SettingsError; SystemCallError."""
        if self._state_file is None:
            return
        state = self._state_file.load()
        if state is not None:
            self._balloon.restore(state)
        self._state_file.begin(self._balloon.save())

    def _deadline_ns(self) -> int | None:
        file_ns = None if self._state_file is None else self._state_file.deadline_ns
        return earliest(self._balloon.deadline_ns, self._accept_at_ns, file_ns)

    def _work(self) -> bool:
        deadline_ns = self._balloon.deadline_ns
        if deadline_ns is not None and deadline_ns <= self._clock.now_ns():
            self._perform(self._balloon.tick())
        if self._accept_at_ns is not None and self._accept_at_ns <= self._clock.now_ns():
            self._accept_at_ns = None
            self.loop.register(self._sock.fileno(), self._accept)
        if self._state_file is not None:
            self._state_file.note(self._balloon.save())
        return self._connection is not None and self._connection.work()

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            self._quiet.warn("accept", f"a front-end could not be accepted: {error.strerror}")
            self.loop.unregister(self._sock.fileno())
            self._accept_at_ns = self._clock.now_ns() + _ACCEPT_AGAIN_NS
            return
        if self._connection is not None:
            self._connection.end_if_hung_up()  # its VMM may have left, and come again at once
        if self._connection is not None:
            text = "a second front-end was turned away: this device has one already"
            self._quiet.warn("second", text)
            sock.close()
            return
        try:
            self._connect(sock)
        except OSError as error:  # more descriptors are watched than this user may watch
            self._quiet.warn("accept", f"a front-end could not be served: {error.strerror}")
            sock.close()

    def _connect(self, sock: socket.socket) -> None:
        _log.info("front-end connected")
        self._connection = self._make_connection(sock)

    def _make_balloon(self, settings: BalloonSettings) -> Balloon:
        return Balloon(settings, self._clock)

    def _make_connection(self, sock: socket.socket) -> Connection:
        return Connection(
            self.loop,
            sock,
            self._balloon,
            quiet=self._quiet,
            observe=self._observed,
            ended=self._disconnected,
        )

    def _disconnected(self) -> None:
        _log.info("front-end disconnected")
        self._connection = None
        if not self._listening:
            self.stop()


@contextmanager
def serving(server: DeviceServer) -> Iterator[DeviceServer]:
    """Run the server on a thread of its own inside the block."""
    thread = Thread(target=server.run, name="ballonet-queues", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
