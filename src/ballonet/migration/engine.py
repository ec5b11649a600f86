"""The process that carries a migration out: `python -m ballonet.migration.engine FD`.

FD is the link to the guest's machine.  If it dies, the machine takes back what it had begun; if the
machine dies, it ends.  So neither can hurt the other, and nobody the guest but itself.
In post-copy, when the guest has left, the machine has nothing to take back: if the engine dies then
or its channel breaks, the guest waits, and another engine goes on (resumed_migration.py).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from ballonet.errors import BallonetError, MigrationError
from ballonet.migration.device_hints import DeviceHints
from ballonet.migration.hint_filter import HintFilter
from ballonet.migration.link import EngineLink
from ballonet.migration.moving_guest import GuestFacts, MovingGuest
from ballonet.migration.passes import PassDone, Passes
from ballonet.migration.progress import Progress, progress_of, with_following
from ballonet.migration.rendezvous import connect
from ballonet.migration.resumed_migration import ResumedMigration
from ballonet.migration.settings import MigrationSettings, OnTimeout
from ballonet.migration.steps import NotedHints, NotedSource
from ballonet.runtime.system_clock import SystemClock
from ballonet.units import pages_to_bytes

__all__ = ["main"]

_NS_PER_MS: Final = 1_000_000
_NO_HINTS: Final = "free page hints do nothing with post-copy: all is sent"
#: What a stop takes besides sending pages, measured: coming to rest, states written, sent and read,
#: and a device that takes over; more of it the more memory there is to describe.
_STOP_NS, _STOP_NS_PER_GIB = 30_000_000, 40_000_000


class _Engine:
    """One migration."""

    def __init__(self, link: EngineLink, order: dict[str, Any]) -> None:
        self._link, self._order = link, order
        self._settings = _settings_of(order)
        self._begun_ns = time.monotonic_ns()
        self._hints: DeviceHints | None = None
        self._passes: Passes
        self._guest: MovingGuest
        self._downtime_ms: int | None = None
        self.has_left = False  #: the guest is the destination's

    def run(self) -> None:
        """Raises: BallonetError; the guest goes on at the source then, unless it `has_left`."""
        settings = self._settings
        with ExitStack() as stack:
            channel = stack.enter_context(connect(self._order["uri"]))
            if settings.postcopy and not channel.is_two_way:
                raise MigrationError(f"post-copy needs a destination that asks, not {channel.name}")
            facts = GuestFacts.from_fields(self._order)
            guest = stack.enter_context(MovingGuest(self._link, channel, facts, self._tell))
            self._guest, self._passes = guest, self._make_passes(stack, guest)
            try:
                guest.begin(
                    has_checksums=settings.checksums,
                    may_postcopy=settings.postcopy,
                    migration_id=self._order["migration_id"],
                )
                self._tell()  # the destination is there
                self._passes.run()
            except MigrationError:
                guest.hear_why()
                raise
            if guest.stopped_ns is not None:
                self._downtime_ms = (time.monotonic_ns() - guest.stopped_ns) // _NS_PER_MS
            if self._passes.following is not None:
                self.has_left = True
                self._tell_if_there()
                self._passes.following.rest()
            self._tell_if_there()

    def _make_passes(self, stack: ExitStack, guest: MovingGuest) -> Passes:
        noted = NotedSource(guest, self._note)
        passes = Passes(
            noted,
            np.ones(guest.pages, np.bool_),
            self._settings,
            SystemClock(),
            hints=self._make_hints(stack, noted),
            postcopy=guest.postcopy,
            observe=self._passed,
        )
        size_gib = pages_to_bytes(guest.pages) / (1 << 30)
        passes.convergence.state_ns = _STOP_NS + int(_STOP_NS_PER_GIB * size_gib)
        return passes

    def _make_hints(self, stack: ExitStack, noted: NotedSource) -> HintFilter | None:
        path = self._order.get("hints")
        if not self._settings.uses_hints or path is None:
            return None
        self._hints = DeviceHints(Path(path))
        stack.callback(self._hints.close)
        return HintFilter(NotedHints(self._hints, self._note, noted.tell_sent), sees_writes=True)

    def _note(self, what: str) -> None:
        self._link.tell("step", at_ns=time.monotonic_ns() - self._begun_ns, what=what)

    def _passed(self, done: PassDone) -> None:
        self._link.tell(
            "pass",
            number=done.number,
            had_pages=done.had_pages,
            hinted_pages=done.hinted_pages,
            dirty_pages=done.dirty_pages,
            sent_bytes=done.sent_bytes,
            ns=done.ns,
        )
        self._tell()

    def _tell_if_there(self) -> None:
        """When the guest has gone, its machine is not needed any more."""
        with suppress(MigrationError):
            self._tell()

    def _tell(self) -> None:
        self._link.tell("progress", progress=self._progress().as_fields())

    def _progress(self) -> Progress:
        guest, now_ns = self._guest, time.monotonic_ns()
        progress = progress_of(self._passes, guest.pages, self._begun_ns, now_ns)
        totals = guest.sender.totals
        progress.sent_pages, progress.hole_pages = totals.pages, totals.hole_pages
        progress.has_hints = self._hints is not None and self._hints.trouble is None
        progress.note = _NO_HINTS if self._goes_without_hints else ""
        progress.downtime_ms = self._downtime_ms
        if self._passes.following is not None:
            return with_following(progress, self._passes.following, progress.total_ms)
        return progress

    @property
    def _goes_without_hints(self) -> bool:
        """There would be some, but for post-copy."""
        is_wanted = self._order["capabilities"]["x-ballonet-hints"] and self._order.get("hints")
        return self._settings.postcopy and bool(is_wanted)


def _settings_of(order: dict[str, Any]) -> MigrationSettings:
    """From QEMU's parameters and capabilities, and ours beside them."""
    parameters, capabilities = order["parameters"], order["capabilities"]
    timeout_ms, bandwidth = parameters["x-ballonet-timeout"], parameters["max-bandwidth"]
    return MigrationSettings(
        downtime_ns=parameters["downtime-limit"] * _NS_PER_MS,
        bandwidth_bytes_per_s=bandwidth or None,
        timeout_ns=timeout_ms * _NS_PER_MS if timeout_ms else None,
        on_timeout=_on_timeout(parameters, capabilities),
        uses_hints=capabilities["x-ballonet-hints"] and not capabilities["postcopy-ram"],
        head_start_ns=parameters["x-ballonet-head-start"] * _NS_PER_MS,
        throttles=capabilities["auto-converge"],
        checksums=capabilities["x-ballonet-checksums"],
        verifies=capabilities["x-ballonet-verify"],
        postcopy=capabilities["postcopy-ram"],
        postcopy_bandwidth_bytes_per_s=parameters["max-postcopy-bandwidth"] or None,
    )


def _on_timeout(parameters: dict[str, Any], capabilities: dict[str, Any]) -> OnTimeout:
    if capabilities["postcopy-ram"]:
        return OnTimeout.POSTCOPY
    return OnTimeout.FORCE if parameters["x-ballonet-force"] else OnTimeout.CANCEL


def main(fd: int) -> int:
    """Carry out what the machine at the other end of the link orders; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the machine's: it ends, and so do we
    with socket.socket(fileno=fd) as sock:
        link = EngineLink(sock)
        migration = None
        try:
            order, _ = link.ask("order")
            migration = _make(link, order)
            migration.run()
        except BallonetError as error:
            status = "cancelled" if str(error) == "cancelled" else "failed"
            if migration is not None and migration.has_left:
                status = "postcopy-paused"
            return _end(link, status, str(error))
        return _end(link, "completed", None)


def _make(link: EngineLink, order: dict[str, Any]) -> _Engine | ResumedMigration:
    if order["resume"]:
        return ResumedMigration(link, order, _settings_of(order))
    return _Engine(link, order)


def _end(link: EngineLink, status: str, reason: str | None) -> int:
    try:
        link.tell("status", status=status, reason=reason)
    except MigrationError:
        return os.EX_IOERR
    return os.EX_OK if reason is None else os.EX_SOFTWARE


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
