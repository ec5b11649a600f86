"""Where the newest change of the target is on its way, by the times of its steps.

    set_target ─▶ config change sent ─▶ driver reads num_pages ─▶ pages move ─▶ actual = target

A driver that has read a target and moves nothing is short of memory: Linux tries again five times
a second, and says "Out of puff!" in its log.
Units: 4 KiB balloon pages, nanoseconds of the device's clock.
Source: Linux update_balloon_size_func, fill_balloon.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ballonet.balloon.clock import NS_PER_S, Clock

__all__ = ["STALLED_AFTER_NS", "RequestTimes", "Stage", "TargetRequest", "stage_of"]

#: Without a page moved for so long a request is stalled: five times the pause of Linux's driver.
STALLED_AFTER_NS: Final = NS_PER_S


class Stage(Enum):
    """What a request waits for."""

    NONE = "no change was asked for"
    NO_DRIVER = "no driver uses the device"
    SENT = "sent, not yet read by the guest"
    READ = "read by the guest, no page moved yet"
    MOVING = "pages are moving"
    STALLED = "stalled: the guest has no page it can give, or does not run"
    REACHED = "reached"


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """When each step of the newest request was; None: not yet."""

    number: int = 0  #: of the request; 0: there was none
    asked_ns: int | None = None
    sent_ns: int | None = None
    read_ns: int | None = None
    moved_ns: int | None = None  #: newest move
    reached_ns: int | None = None


class TargetRequest:
    """The newest request; the device tells it what happens."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._number = 0
        self.target_pages = 0
        self._asked_ns: int | None = None
        self._sent_ns: int | None = None
        self._read_ns: int | None = None
        self._moved_ns: int | None = None
        self._reached_ns: int | None = None

    @property
    def times(self) -> RequestTimes:
        """All steps."""
        return RequestTimes(
            self._number,
            self._asked_ns,
            self._sent_ns,
            self._read_ns,
            self._moved_ns,
            self._reached_ns,
        )

    def ask(self, target_pages: int, actual_pages: int) -> None:
        """A new request; it replaces an older one."""
        now_ns = self._clock.now_ns()
        self._number += 1
        self.target_pages = target_pages
        self._asked_ns = now_ns
        self._sent_ns = self._read_ns = self._moved_ns = None
        self._reached_ns = now_ns if target_pages == actual_pages else None

    def sent(self) -> None:
        """The driver was told to look; without a request there was nothing to tell."""
        if self._sent_ns is None and self._number:
            self._sent_ns = self._clock.now_ns()

    def read(self) -> None:
        """The driver read the target."""
        if self._read_ns is None and self._number:
            self._read_ns = self._clock.now_ns()

    def moved(self, actual_pages: int) -> None:
        """The driver wrote another `actual`."""
        self._moved_ns = self._clock.now_ns()
        if actual_pages == self.target_pages:
            self._reached_ns = self._reached_ns or self._moved_ns
        else:
            self._reached_ns = None

    def stage(self, actual_pages: int, *, running: bool) -> Stage:
        """What the request waits for now."""
        return stage_of(
            self.times,
            self.target_pages,
            actual_pages,
            running=running,
            now_ns=self._clock.now_ns(),
        )


def stage_of(
    times: RequestTimes, target_pages: int, actual_pages: int, *, running: bool, now_ns: int
) -> Stage:
    """What a request waits for; `running`: a driver's rings are served."""
    if times.asked_ns is None:
        return Stage.NONE
    if actual_pages == target_pages:
        return Stage.REACHED
    if not running:
        return Stage.NO_DRIVER
    if times.read_ns is None:
        return Stage.SENT
    newest_ns = max(times.read_ns, times.moved_ns or 0)
    if now_ns - newest_ns > STALLED_AFTER_NS:
        return Stage.STALLED
    return Stage.READ if times.moved_ns is None else Stage.MOVING
