"""The border between a balloon and everybody who tells it what to do, or wants to know.

A monitor, a host, a trace, a program: none of them knows what kind of device stands behind it.
Every method may be called from any thread.  Commands are obeyed in the order they were given; the
future of one is done when the device has obeyed it, which says nothing about the guest.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import NamedTuple, Protocol

from ballonet.balloon.facts import Observe
from ballonet.balloon.inhibition import InhibitReason
from ballonet.balloon.stats_reading import StatsReading
from ballonet.control.status import Status
from ballonet.memory.runs import PageRuns

__all__ = ["Control", "HintControl", "Hints", "StatsControl"]


class Hints(NamedTuple):
    """A part of what a driver has hinted in one round."""

    cmd_id: int
    state: str  #: of the round, a HintState's name: after START nothing more comes
    runs: PageRuns
    has_more: bool  #: there is more to take at once


class StatsControl(Protocol):
    """The statistics of one balloon's guest."""

    def set_poll_interval(self, interval_s: int) -> Future[None]:
        """Ask for statistics every so many seconds, at once the first time; 0: no more.

        Raises: SettingsError, UsageError.
        """
        ...

    def request(self) -> Future[None]:
        """Ask the guest for a fresh sample. Raises: UsageError."""
        ...

    def read(self, timeout_s: float) -> StatsReading:
        """Ask the guest for a fresh sample and wait for it.

        Raises: GuestError, saying why if none comes in time.
        """
        ...


class HintControl(Protocol):
    """Pages that a migration need not send, as the driver of one balloon hints them.

    A round lives from one reading of the dirty log to the next.  Whoever begins rounds is heard of
    again within its lease, be it by `take`, or the guest is given its pages back.
    """

    def begin(self, lease_s: float) -> Future[int | None]:
        """Ask for hints, right after the dirty log was read and armed; ends an older round.

        The future has the round's id; None: no driver runs, or it gives no hints.
        Raises: UsageError.
        """
        ...

    def take(self, cmd_id: int, runs_max: int) -> Future[Hints]:
        """What was hinted in the present round and not taken yet, the lowest runs first.

        The future raises GuestError, if the present round is another one.  Raises: UsageError.
        """
        ...

    def stop(self, lease_s: float) -> Future[None]:
        """End the round; when this is done no hint of it will come any more.

        What has come can still be taken, before the dirty log is read again.  Raises: UsageError.
        """
        ...

    def finish(self) -> Future[None]:
        """Let the guest take its hinted pages back: on every way out. Raises: UsageError."""
        ...


class Control(Protocol):
    """One balloon."""

    @property
    def hints(self) -> HintControl:
        """Free page hints, for a migration."""
        ...

    @property
    def stats(self) -> StatsControl:
        """What its guest tells about its memory."""
        ...

    def keep_latest(self) -> None:
        """Have `latest` kept from now on. Raises: TimeoutError, if the device does not answer."""
        ...

    @property
    def latest(self) -> Status:
        """A status of a moment ago, without waiting: no command that is done is missing from it."""
        ...

    def status(self) -> Status:
        """A status of now. Raises: TimeoutError, if the device does not answer; UsageError."""
        ...

    def status_soon(self) -> Future[Status]:
        """The same for those who must not wait here. Raises: UsageError, if it has ended."""
        ...

    def set_target(self, target_pages: int) -> Future[None]:
        """Ask the guest for a balloon of this many balloon pages.

        Raises: SettingsError, unless it fits the 32 bits of `num_pages`; UsageError.
        """
        ...

    def expedite(self) -> Future[None]:
        """Have what waits dropped without waiting for a quiet moment.

        `waiting_bytes` of a status says when that is done.  Raises: UsageError.
        """
        ...

    def inhibit(self, reason: InhibitReason) -> Future[None]:
        """Hold discards off; none is under way when this is done. Raises: UsageError."""
        ...

    def lift(self, reason: InhibitReason) -> Future[None]:
        """Take back one `inhibit`; the future raises UsageError, if there was none."""
        ...

    def pause(self) -> Future[None]:
        """Ask for no statistics until `unpause`. Raises: UsageError."""
        ...

    def unpause(self) -> Future[None]:
        """Ask for statistics again, as often as before. Raises: UsageError."""
        ...

    def subscribe(self, observe: Observe, *, details: bool = False) -> None:
        """Call `observe` on the device's thread for everything that happens from now on."""
        ...

    def unsubscribe(self, observe: Observe) -> None:
        """Take back `subscribe`."""
        ...

    def stop(self) -> None:
        """Let the device end; may be called from a signal handler."""
        ...
