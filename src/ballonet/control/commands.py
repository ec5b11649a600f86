"""Commands of the host, obeyed on the device's thread, one after the other, and told to observers.

A status of the moment is kept for those who must not wait, if there are any: it is made anew after
each command and, at most so often, after news of the guest.  An idle device makes none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Final, TypeVar

from ballonet.balloon.facts import CommandGiven, Fact
from ballonet.control.status import Status
from ballonet.vhost_user.server import DeviceServer

__all__ = ["Commands", "KeptStatus"]

T = TypeVar("T")

#: Between two statuses that are kept: each costs some 10 µs of the device's thread.
_KEEP_NS: Final = 2_000_000


class KeptStatus:
    """The newest status of one device; its thread makes it, anybody reads it."""

    def __init__(self, server: DeviceServer) -> None:
        self._server, self._balloon = server, server.balloon
        self._is_wanted = self._has_news = False
        self.status = self._look()  #: of a moment ago, since `begin`
        server.balloon.observers.add(self._observe)
        server.add_timed(self)

    @property
    def deadline_ns(self) -> int | None:
        """When the status that is kept is too old."""
        if not self._has_news or not self._is_wanted:
            return None
        return self.status.now_ns + _KEEP_NS

    def begin(self) -> None:
        """Somebody wants it from now on."""
        self._is_wanted = True

    def expired(self) -> None:
        """Keep a status of now."""
        self._has_news = False
        self.status = self._look()

    def look(self) -> Status:
        """A status of now; what waits and names no memory is counted first, and waits not."""
        self._balloon.inflation.sort_waiting()
        self.expired()
        return self.status

    def _observe(self, _: Fact) -> None:
        self._has_news = True

    def _look(self) -> Status:
        balloon, guest = self._balloon, self._server.guest_memory
        poison = balloon.config.poison
        return Status(
            now_ns=time.monotonic_ns(),
            connected=guest is not None,
            running=not balloon.queues.are_stopped,
            paused=balloon.polling.is_paused,
            negotiated=balloon.negotiated,
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
            problem=self._server.find_problem(),
            request=balloon.request.times,
        )


class Commands:
    """The way of each command to one device."""

    def __init__(self, server: DeviceServer, kept: KeptStatus) -> None:
        self._server, self._kept = server, kept

    def give(self, name: str, command: Callable[[], T], **arguments: object) -> Future[T]:
        """Have a command obeyed, and told. Raises: UsageError, if the device has ended."""

        def execute() -> T:
            self._tell(name, arguments)
            try:
                return self._server.execute(command)
            finally:
                self._kept.expired()  # whoever waits for the command must not see what was before

        return self._server.loop.put(execute)

    def _tell(self, name: str, arguments: Mapping[str, object]) -> None:
        observers = self._server.balloon.observers
        if observers.want_details:
            observers.tell_detail(CommandGiven(name, arguments))
