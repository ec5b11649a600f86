"""How long it took: until machines had what they lacked, and until they gave what was asked for.

Units: bytes (logical size), seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prometheus_client import Histogram

from ballonet.autopilot.claims import Standing
from ballonet.autopilot.constants import Constants
from ballonet.autopilot.law import Step
from ballonet.autopilot.vm_state import MAY_GET

__all__ = ["HISTOGRAMS", "RECLAIM_RATIO", "RELIEF_S", "Waits"]

RELIEF_S: Final = "ballonet_autopilot_relief_seconds"
RECLAIM_RATIO: Final = "ballonet_autopilot_reclaim_prediction_ratio"
#: Their meanings.
HISTOGRAMS: Final = {
    RELIEF_S: "Until a machine that lacked what it uses, or soon will, had got it.",
    RECLAIM_RATIO: "How long it took to give memory, of what was predicted (1 s at least).",
}
_BUCKETS: Final = {
    RELIEF_S: (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
    RECLAIM_RATIO: (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0),
}
#: What is to take less is over before it is looked at.
_PREDICTED_LEAST_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Lack:
    since_s: float
    actual_bytes: int  #: then


@dataclass(frozen=True, slots=True)
class _Reclaim:
    since_s: float
    predicted_s: float


class Waits:
    """Follows every decision."""

    def __init__(self) -> None:
        #: Of this agent, by name.
        self.histograms: Final = {
            name: Histogram(name, meaning, buckets=_BUCKETS[name], registry=None)
            for name, meaning in HISTOGRAMS.items()
        }
        self._lacks: dict[str, _Lack] = {}
        self._reclaims: dict[str, _Reclaim] = {}

    def follow(self, decided: Step, constants: Constants) -> None:
        """After a round; who is gone is waited for no more."""
        now_s = decided.state.at_s or 0.0
        there = decided.standings.keys()
        self._lacks = {vm: one for vm, one in self._lacks.items() if vm in there}
        self._reclaims = {vm: one for vm, one in self._reclaims.items() if vm in there}
        for vm, one in decided.standings.items():
            slack_bytes = constants.slack_of(one.record.memory_bytes)
            self._follow_lack(vm, one, now_s, slack_bytes)
            self._follow_reclaim(vm, one, now_s, slack_bytes)
        for verdict in decided.changes:
            self._begin_reclaim(decided.standings[verdict.vm], verdict.to_bytes, now_s)

    def _follow_lack(self, vm: str, one: Standing, now_s: float, slack_bytes: int) -> None:
        """It lacks what it uses, or will soon; that its need has gone is no relief."""
        actual_bytes = one.record.sizes.actual_bytes
        lacks = one.need.growth_bytes - actual_bytes > slack_bytes
        if lacks and one.record.state in MAY_GET:
            self._lacks.setdefault(vm, _Lack(now_s, actual_bytes))
            return
        begun = self._lacks.pop(vm, None)
        if begun is not None and actual_bytes > begun.actual_bytes + slack_bytes:
            self.histograms[RELIEF_S].observe(now_s - begun.since_s)

    def _follow_reclaim(self, vm: str, one: Standing, now_s: float, slack_bytes: int) -> None:
        begun = self._reclaims.get(vm)
        if begun is not None and one.record.sizes.pending_bytes <= slack_bytes:
            del self._reclaims[vm]
            if begun.predicted_s >= _PREDICTED_LEAST_S:
                ratio = (now_s - begun.since_s) / begun.predicted_s
                self.histograms[RECLAIM_RATIO].observe(ratio)

    def _begin_reclaim(self, one: Standing, to_bytes: int, now_s: float) -> None:
        """Or make one longer that is under way; one that is given up says nothing."""
        sizes, vm = one.record.sizes, one.record.vm
        if to_bytes >= sizes.target_bytes:
            self._reclaims.pop(vm, None)
            return
        rate = max(1.0, one.record.progress.rate_bytes_per_s)
        begun = self._reclaims.get(vm)
        if begun is None:
            self._reclaims[vm] = _Reclaim(now_s, (sizes.actual_bytes - to_bytes) / rate)
            return
        more_s = (sizes.target_bytes - to_bytes) / rate
        self._reclaims[vm] = _Reclaim(begun.since_s, begun.predicted_s + more_s)
