"""The host of a sibling of virtio's balloon behind `Control`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Final, NoReturn

from ballonet.balloon.clock import Clock
from ballonet.balloon.facts import Observe
from ballonet.balloon.inhibition import InhibitReason
from ballonet.control.commands import Commands, KeptStatus
from ballonet.control.control import Hints
from ballonet.control.status import Status
from ballonet.errors import SettingsError, UsageError
from ballonet.runtime.system_clock import SystemClock
from ballonet.siblings.serving import HostServer
from ballonet.siblings.status_reports import ReportedStats
from ballonet.virtio.features import Feature

__all__ = ["SiblingControl"]

_ASK_TIMEOUT_S: Final = 10.0


class SiblingControl:
    """A `Control`; made before the host runs."""

    def __init__(self, server: HostServer, *, wants_reports: bool | None = None) -> None:
        """`wants_reports`: whether a guest of Hyper-V is to send status reports; None: VMware's."""
        self.server: Final = server
        self._host, self._given = server.host, server.host.given
        self._clock: Clock = SystemClock()
        self._is_paused = False
        self.stats: Final = ReportedStats(
            server.host, server.loop, self._clock, wants_reports=wants_reports
        )
        self.hints: Final = NoHints(server.host.kind)
        self._kept = KeptStatus(server, self._given.observers, self._status_of_now)
        self._commands = Commands(server, self._given.observers, self._kept)

    def keep_latest(self) -> None:
        """Have `latest` kept from now on. Raises: TimeoutError, if the host does not answer."""
        self._kept.begin()
        if self.server.loop.runs_elsewhere:
            self.status()
        else:
            self._kept.look()

    @property
    def latest(self) -> Status:
        """A status of a moment ago, without waiting: no command that is done is missing from it."""
        return self._kept.status

    def status(self) -> Status:
        """A status of now. Raises: TimeoutError, if the host does not answer; UsageError."""
        return self.status_soon().result(_ASK_TIMEOUT_S)

    def status_soon(self) -> Future[Status]:
        """The same for those who must not wait here. Raises: UsageError, if it has ended."""
        return self.server.loop.put(self._kept.look)

    def set_target(self, target_pages: int) -> Future[None]:
        """Ask the guest for a balloon of this many balloon pages.

        Raises: SettingsError, unless it fits 32 bits, as virtio's does; UsageError.
        """
        if not 0 <= target_pages < 1 << 32:
            raise SettingsError("target", target_pages, "0 to 2**32 - 1 pages of 4 KiB")
        return self._commands.give(
            "set target", lambda: self._host.set_target(target_pages), pages=target_pages
        )

    def expedite(self) -> Future[None]:
        """Have what waits dropped without waiting for a quiet moment. Raises: UsageError."""
        return self.server.loop.put(self._given.ledger.expedite)

    def inhibit(self, reason: InhibitReason) -> Future[None]:
        """Hold discards off; none is under way when this is done. Raises: UsageError."""
        inhibit = self._given.inhibition.inhibit
        return self._commands.give("inhibit", lambda: inhibit(reason), reason=reason.value)

    def lift(self, reason: InhibitReason) -> Future[None]:
        """Take back one `inhibit`; the future raises UsageError, if there was none."""
        lift = self._given.inhibition.lift
        return self._commands.give("lift", lambda: lift(reason), reason=reason.value)

    def pause(self) -> Future[None]:
        """Say that it is paused until `unpause`: there is nothing that is asked of the guest."""
        return self._commands.give("pause", self._pausing(is_paused=True))

    def unpause(self) -> Future[None]:
        """Take that back. Raises: UsageError."""
        return self._commands.give("go on", self._pausing(is_paused=False))

    def subscribe(self, observe: Observe, *, details: bool = False) -> None:
        """Call `observe` on the host's thread for everything that happens from now on."""
        self._given.observers.add(observe, details=details)

    def unsubscribe(self, observe: Observe) -> None:
        """Take back `subscribe`."""
        self._given.observers.remove(observe)

    def stop(self) -> None:
        """Let the host end; may be called from a signal handler."""
        self.server.stop()

    def _pausing(self, *, is_paused: bool) -> Callable[[], None]:
        def change() -> None:
            self._is_paused = is_paused

        return change

    def _status_of_now(self) -> Status:
        host, given, guest = self._host, self._given, self.server.guest_memory
        return Status(
            now_ns=self._clock.now_ns(),
            protocol=host.kind,
            connected=guest is not None,
            running=host.is_running,
            paused=self._is_paused,
            features=host.capabilities,
            negotiated=Feature(0),
            guest_bytes=0 if guest is None else guest.total_bytes,
            held_bytes=0 if guest is None else guest.held_bytes(),
            target_pages=host.target_pages,
            actual_pages=host.actual_pages,
            request=host.request.times,
            stats_diagnosis=self.stats.diagnosis(),
            stats=self.stats.reading,
            poll_interval_s=self.stats.poll_interval_s,
            poison_val=None,
            hint_state="NONE",
            waiting_bytes=given.ledger.waiting_bytes,
            inhibited=given.inhibition.reasons,
            report_bytes_per_s=None,
            broken=host.broken,
            problem=None,
            counters=replace(given.counters),
            status_reports=self.stats.reports,
            details=host.describe(),
        )


class NoHints:
    """A `HintControl` of a balloon whose protocol has no free page hints."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def begin(self, lease_s: float) -> Future[int | None]:  # noqa: ARG002 - the protocol's
        """Raises: UsageError."""
        self._refuse()

    def take(self, cmd_id: int, runs_max: int) -> Future[Hints]:  # noqa: ARG002
        """Raises: UsageError."""
        self._refuse()

    def stop(self, lease_s: float) -> Future[None]:  # noqa: ARG002
        """Raises: UsageError."""
        self._refuse()

    def finish(self) -> Future[None]:
        """Raises: UsageError."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UsageError(f"a balloon of {self._kind} gives no free page hints")
