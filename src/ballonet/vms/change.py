"""A change of the balloon on its way, as a client sees it: progress, speed, and a verdict.

Fed with what is known at one moment after the other; time is handed in.  Two things are not taken
at their word.  QEMU keeps `actual` over a reset of the guest, so the size counts only when it
changed after the request.  And a guest that does not move may be one whose processors do not get
to run, so it is stuck only when it has sent statistics meanwhile, or for long has not.

    rule, first that holds                                                   verdict
    another request came, or it moves away from the size                     SUPERSEDED
    the size is there and confirmed, and a driver may be                     REACHED
    paused, and nothing moves                                                PAUSED
    no driver uses the device                                                NO_DRIVER
    it is to give memory, and suffers                                        SUFFERING
    the size is there, and nothing confirms it                               UNCONFIRMED
    nothing moves though the guest answers, or nothing at all comes of it    STUCK
    the time is over                                                         PARTIAL

Units: bytes of memory left to the guest (logical size), seconds.
Source: QEMU virtio_balloon_device_reset keeps num_pages and actual; Linux update_balloon_size_func
writes `actual` when it has changed and not else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["Change", "Look", "Progress", "Verdict"]

#: Without a move for so long a change is stuck, if the guest answers meanwhile ...
STUCK_AFTER_S: Final = 5.0
#: ... this often: one answer may have been on its way when it last moved.
_ANSWERS_WANTED: Final = 2
#: A guest that answers nothing may have no time; so long it is waited for.
SILENT_AFTER_S: Final = 15.0
#: A VM that is paused, or without a driver, for less is about to go on.
ABSENT_AFTER_S: Final = 2.0
#: So much further off than it was, a guest follows somebody else's request.
_WRONG_WAY_BYTES: Final = 8 << 20
#: A kernel manages at least so much of a guest's memory, in eighths.
_MANAGED_EIGHTHS: Final = 7
#: Over which the speed is taken.
_SPEED_WINDOW_S: Final = 3.0


class Verdict(Enum):
    """How a change ended."""

    REACHED = "reached"
    PARTIAL = "partly reached when the time was over; the request stands"
    STUCK = "the guest does not move"
    SUFFERING = "the guest suffers"
    SUPERSEDED = "superseded by another request"
    NO_DRIVER = "no driver in the guest uses the balloon; the request stands"
    PAUSED = "paused: the guest does not run, it cannot follow; the request stands"
    UNCONFIRMED = (
        "the monitor shows that size, but the guest has not reported it since the request: it may"
        " have restarted; the request stands"
    )
    UNTOLD = "the VMM does not tell what the guest has; the request stands"  #: nothing was seen


@dataclass(frozen=True, slots=True)
class Look:
    """What is known at one moment."""

    now_s: float
    actual_bytes: int  #: as the monitor says
    paused: bool = False
    has_driver: bool | None = None  #: None: not known
    is_current: bool = False  #: `actual` is of the driver that is there, as our device knows
    superseded: bool = False
    resets: int = 0  #: of the guest, so far
    answers: int = 0  #: samples of statistics since the request
    least_bytes: int | None = None  #: what the guest has at least, by the newest of them
    distress: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a change stands."""

    start_bytes: int
    wanted_bytes: int
    now_bytes: int
    bytes_per_s: float
    eta_s: float | None

    @property
    def fraction(self) -> float:
        """Part of the way, 0 to 1."""
        way = abs(self.wanted_bytes - self.start_bytes)
        return 1.0 if not way else min(1.0, abs(self.now_bytes - self.start_bytes) / way)


class Change:
    """From a request to its verdict."""

    def __init__(self, start_bytes: int, wanted_bytes: int, now_s: float) -> None:
        self._start_bytes, self._wanted_bytes = start_bytes, wanted_bytes
        self._seen = [(now_s, start_bytes)]
        self._newest = Look(now_s, start_bytes)
        self._closest = abs(wanted_bytes - start_bytes)
        self._reported = False  # `actual` has changed since the request, or the newest reset
        self._moved_s = self._present_s = now_s
        self._answers_then = 0  # when it last moved

    def see(self, look: Look) -> Progress:
        """Note what is known now."""
        if look.resets != self._newest.resets:
            # Another kernel boots: what was known of the guest is void, and it gets new time.
            self._reported, self._moved_s = False, look.now_s
            self._answers_then = look.answers
        if look.actual_bytes != self._newest.actual_bytes:
            self._note_move(look)
        if not look.paused and look.has_driver is not False:
            self._present_s = look.now_s
        self._newest = look
        return self._progress(look.now_s, look.actual_bytes)

    def verdict(self, deadline_s: float) -> Verdict | None:
        """How it ended, or None while it goes on."""
        look = self._newest
        still_s = look.now_s - self._moved_s
        absent = look.now_s - self._present_s > ABSENT_AFTER_S
        if look.superseded or self._left_bytes > self._closest + _WRONG_WAY_BYTES:
            return Verdict.SUPERSEDED
        if look.has_driver is not False and self._is_reached():
            return Verdict.REACHED
        if absent and still_s > ABSENT_AFTER_S:
            return Verdict.PAUSED if look.paused else Verdict.NO_DRIVER
        if look.distress and look.actual_bytes > self._wanted_bytes:
            return Verdict.SUFFERING
        if self._is_still(still_s):
            return Verdict.UNCONFIRMED if self._is_there else Verdict.STUCK
        if look.now_s > deadline_s:
            return Verdict.UNCONFIRMED if self._is_there else Verdict.PARTIAL
        return None

    @property
    def _left_bytes(self) -> int:
        return abs(self._wanted_bytes - self._newest.actual_bytes)

    @property
    def _is_there(self) -> bool:
        """The monitor shows the size that was asked for."""
        return self._left_bytes < BALLOON_PAGE_BYTES

    def _is_reached(self) -> bool:
        look = self._newest
        if self._is_there:
            return look.is_current or self._reported
        # A new kernel whose balloon is to stay empty never writes `actual`, so the monitor shows
        # the old one's; but its statistics show that it has more.
        return (
            look.least_bytes is not None
            and self._wanted_bytes > look.actual_bytes < look.least_bytes
            and look.least_bytes * 8 >= self._wanted_bytes * _MANAGED_EIGHTHS
        )

    def _is_still(self, still_s: float) -> bool:
        """Nothing moves, and it is not for want of time."""
        look = self._newest
        if look.resets and not self._reported:
            return False  # it boots
        answers = look.answers - self._answers_then
        return still_s > SILENT_AFTER_S or (still_s > STUCK_AFTER_S and answers >= _ANSWERS_WANTED)

    def _note_move(self, look: Look) -> None:
        left_bytes = abs(self._wanted_bytes - look.actual_bytes)
        if not self._reported:
            # The first word of the guest: what stood there before may have been another kernel's.
            self._closest = left_bytes
        self._closest = min(self._closest, left_bytes)
        self._reported, self._moved_s = True, look.now_s
        self._answers_then = look.answers

    def _progress(self, now_s: float, now_bytes: int) -> Progress:
        self._seen.append((now_s, now_bytes))
        self._seen = [one for one in self._seen if one[0] >= now_s - _SPEED_WINDOW_S]
        then_s, then_bytes = self._seen[0]
        span = now_s - then_s
        speed = abs(now_bytes - then_bytes) / span if span else 0.0
        left = abs(self._wanted_bytes - now_bytes)
        return Progress(
            self._start_bytes, self._wanted_bytes, now_bytes, speed, left / speed if speed else None
        )
