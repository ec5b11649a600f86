"""What a machine's balloon is doing, in a word, by one observation after another.

Whoever has asked for the size: where a VMM tells the target, every change of it is followed to its
verdict, by the rules of change.py.  Where it does not, only a size that changes shows that
something is under way.
Units: bytes of memory left to the guest (logical size), seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Final

from ballonet.vms.change import Change, Look, Verdict
from ballonet.vms.distress import Distress
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.observation import Observation

__all__ = ["CONDITION_OF", "Condition", "ConditionWatch"]


class Condition(Enum):
    """The value is the word that people see."""

    QUIET = ""  #: nothing is under way, as far as is known
    ASKED = "asked"  #: it is to have another size, and has not moved yet
    MOVING = "moving"
    ARRIVED = "arrived"
    STUCK = "stuck"
    SUFFERING = "suffers"
    UNCONFIRMED = "unsure"  #: its VMM shows the size that was asked for, its guest has not told it
    PAUSED = "paused"
    NO_DRIVER = "no driver"
    NO_VMM = "no VMM"
    SILENT = "silent"  #: it was asked, and has not answered
    UNREACHED = "unreached"  #: it cannot be asked


CONDITION_OF: Final[Mapping[Verdict, Condition]] = {
    Verdict.REACHED: Condition.ARRIVED,
    Verdict.PARTIAL: Condition.MOVING,
    Verdict.STUCK: Condition.STUCK,
    Verdict.SUFFERING: Condition.SUFFERING,
    Verdict.SUPERSEDED: Condition.MOVING,
    Verdict.NO_DRIVER: Condition.NO_DRIVER,
    Verdict.PAUSED: Condition.PAUSED,
    Verdict.UNCONFIRMED: Condition.UNCONFIRMED,
    Verdict.UNTOLD: Condition.ASKED,
}
#: What else a change has come to may still change.
_ENDS: Final = (Verdict.REACHED, Verdict.SUPERSEDED)


class ConditionWatch:
    """Of one machine; `see` each of its observations."""

    def __init__(self) -> None:
        self._at_s: float | None = None
        self._actual_bytes: int | None = None
        self._wanted_bytes: int | None = None  # of the change that is followed
        self._change: Change | None = None
        self._verdict: Verdict | None = None
        self._has_moved = False
        self._answers = 0  # samples of statistics so far
        self._updated_s: int | None = None  # time of the newest
        self._distress: Distress | None = None
        self.suffers_from: str | None = None  #: in words
        self.condition = Condition.QUIET

    def see(self, look: Observation) -> Condition:
        """Note what it tells; one that was seen before changes nothing."""
        if look.at_s != self._at_s:
            self._at_s = look.at_s
            self._note_statistics(look)
            self._follow(look)
            self.condition = self._condition(look)
            self._actual_bytes = look.actual_bytes
        return self.condition

    def _condition(self, look: Observation) -> Condition:
        if look.device is not None and not look.device.connected:
            return Condition.NO_VMM
        if look.paused:
            return Condition.PAUSED
        if look.has_driver is False:
            return Condition.NO_DRIVER
        if self.suffers_from is not None:
            return Condition.SUFFERING
        if self._change is None:
            return Condition.MOVING if self._moves(look) else Condition.QUIET
        if self._verdict is None:
            return Condition.MOVING if self._has_moved else Condition.ASKED
        return CONDITION_OF[self._verdict]

    def _moves(self, look: Observation) -> bool:
        return None not in (self._actual_bytes, look.actual_bytes) and (
            look.actual_bytes != self._actual_bytes
        )

    def _note_statistics(self, look: Observation) -> None:
        updated_s, actual_bytes = look.stats_last_update_s, look.actual_bytes
        if updated_s is None or updated_s == self._updated_s or actual_bytes is None:
            return
        sample = GuestStats(updated_s, {name: one.value for name, one in look.statistics.items()})
        self._updated_s = updated_s
        self._answers += 1
        if self._distress is None:
            self._distress = Distress(look.memory_bytes or actual_bytes, None, actual_bytes)
        self.suffers_from = self._distress.see(sample, actual_bytes)

    def _follow(self, look: Observation) -> None:
        """Take up a change, or go on with it."""
        actual_bytes, target_bytes = look.actual_bytes, look.target_bytes
        if actual_bytes is None or target_bytes is None:
            self._change = self._wanted_bytes = None
            return
        moves = self._moves(look)
        is_over = self._change is None or self._verdict in _ENDS
        if target_bytes != self._wanted_bytes or (is_over and moves):
            self._wanted_bytes, self._change = target_bytes, None
            if target_bytes != actual_bytes or moves:
                start_bytes = self._actual_bytes if moves else actual_bytes
                self._change = Change(start_bytes or 0, target_bytes, look.at_s)
                self._verdict, self._has_moved, self._answers = None, False, 0
        if self._change is not None and self._verdict not in _ENDS:
            self._has_moved |= moves
            self._change.see(self._as_look(look, actual_bytes))
            self._verdict = self._change.verdict(math.inf)

    def _as_look(self, look: Observation, actual_bytes: int) -> Look:
        """Suffering is told by itself, because it may end before the change does."""
        return Look(
            look.at_s,
            actual_bytes,
            paused=bool(look.paused),
            has_driver=look.has_driver,
            is_current=look.device is not None and bool(look.has_driver),
            answers=self._answers,
        )
