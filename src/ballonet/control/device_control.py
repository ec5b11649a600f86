"""The virtio balloon device behind `Control`."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from ballonet.balloon.facts import Observe
from ballonet.balloon.inhibition import InhibitReason
from ballonet.control.commands import Commands, KeptStatus
from ballonet.control.device_stats import DeviceStats
from ballonet.control.hint_rounds import HintRounds
from ballonet.control.status import Status
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import SettingsError
from ballonet.vhost_user.server import DeviceServer, make_server, serving
from ballonet.virtio.features import feature_names

__all__ = ["DeviceControl", "controlling"]

_ASK_TIMEOUT_S: Final = 10.0


class DeviceControl:
    """A `Control`; made before the device runs."""

    def __init__(self, server: DeviceServer) -> None:
        self.server: Final = server
        self._balloon = server.balloon
        balloon = server.balloon
        self._kept = KeptStatus(
            server,
            balloon.observers,
            lambda: _status_of(server),
            settle=balloon.inflation.sort_waiting,
        )
        self._commands = Commands(server, balloon.observers, self._kept)
        self.stats: Final = DeviceStats(server, self._commands)
        self.hints: Final = HintRounds(server, self._commands)

    def keep_latest(self) -> None:
        """Have `latest` kept from now on. Raises: TimeoutError, if the device does not answer."""
        self._kept.begin()
        if self.server.loop.runs_elsewhere:
            self.status()
        else:
            self._kept.look()

    @property
    def latest(self) -> Status:
        """A status of a moment ago, without waiting: no command that is done is missing from it."""
        return self._kept.status

    def look(self) -> Status:
        """A status of now, for those who are on the device's thread."""
        return self._kept.look()

    def status(self) -> Status:
        """A status of now. Raises: TimeoutError, if the device does not answer; UsageError."""
        return self.status_soon().result(_ASK_TIMEOUT_S)

    def status_soon(self) -> Future[Status]:
        """The same for those who must not wait here. Raises: UsageError, if it has ended."""
        return self.server.loop.put(self._kept.look)

    def set_target(self, target_pages: int) -> Future[None]:
        """Ask the guest for a balloon of this many balloon pages.

        Raises: SettingsError, unless it fits the 32 bits of `num_pages`; UsageError.
        """
        if not 0 <= target_pages < 1 << 32:
            raise SettingsError("target", target_pages, "0 to 2**32 - 1 pages of 4 KiB")
        return self._commands.give(
            "set target", lambda: self._balloon.set_target(target_pages), pages=target_pages
        )

    def expedite(self) -> Future[None]:
        """Have what waits dropped without waiting for a quiet moment. Raises: UsageError."""
        # Observers are told of the discards that it causes, and not of this.
        return self.server.loop.put(self._balloon.ledger.expedite)

    def inhibit(self, reason: InhibitReason) -> Future[None]:
        """Hold discards off; none is under way when this is done. Raises: UsageError."""
        inhibit = self._balloon.inhibition.inhibit
        return self._commands.give("inhibit", lambda: inhibit(reason), reason=reason.value)

    def lift(self, reason: InhibitReason) -> Future[None]:
        """Take back one `inhibit`; the future raises UsageError, if there was none."""
        lift = self._balloon.inhibition.lift
        return self._commands.give("lift", lambda: lift(reason), reason=reason.value)

    def set_report_rate(self, bytes_per_s: int | None) -> Future[None]:
        """Discard at most so much of what the guest reports; 0: nothing, None: everything."""
        set_rate = self._balloon.reporting.throttle.set_rate
        return self._commands.give(
            "limit reports", lambda: set_rate(bytes_per_s), bytes_per_s=bytes_per_s
        )

    def pause(self) -> Future[None]:
        """Ask for no statistics until `unpause`. Raises: UsageError."""
        return self._commands.give("pause", self._balloon.polling.pause)

    def unpause(self) -> Future[None]:
        """Ask for statistics again, as often as before. Raises: UsageError."""
        return self._commands.give("go on", self._balloon.polling.unpause)

    def subscribe(self, observe: Observe, *, details: bool = False) -> None:
        """Call `observe` on the device's thread for everything that happens from now on."""
        self._balloon.observers.add(observe, details=details)

    def unsubscribe(self, observe: Observe) -> None:
        """Take back `subscribe`."""
        self._balloon.observers.remove(observe)

    def stop(self) -> None:
        """Let the device end; may be called from a signal handler."""
        self.server.stop()


@contextmanager
def controlling(settings: BalloonSettings, sock: socket.socket) -> Iterator[DeviceControl]:
    """Serve a device on a thread of its own inside the block, to whoever connects to a socket."""
    server = make_server(settings, sock, listening=True)
    control = DeviceControl(server)
    with serving(server):
        yield control


def _status_of(server: DeviceServer) -> Status:
    balloon, guest = server.balloon, server.guest_memory
    poison = balloon.config.poison
    return Status(
        now_ns=time.monotonic_ns(),
        protocol="virtio",
        connected=guest is not None,
        running=not balloon.queues.are_stopped,
        paused=balloon.polling.is_paused,
        negotiated=balloon.negotiated,
        features=tuple(feature_names(balloon.negotiated)),
        target_pages=balloon.target_pages,
        actual_pages=balloon.actual_pages,
        guest_bytes=0 if guest is None else guest.total_bytes,
        held_bytes=0 if guest is None else guest.held_bytes(),
        waiting_bytes=balloon.ledger.waiting_bytes,
        counters=replace(balloon.counters),
        stats=balloon.statistics.reading,
        stats_diagnosis=balloon.polling.diagnosis(),
        poll_interval_s=balloon.statistics.poll_interval_s,
        hint_state=balloon.hint_round.state.name,
        poison_val=poison.value if poison.is_known else None,
        inhibited=balloon.inhibition.reasons,
        report_bytes_per_s=balloon.reporting.throttle.bytes_per_s,
        broken=balloon.queues.broken,
        problem=server.find_problem(),
        request=balloon.request.times,
    )
