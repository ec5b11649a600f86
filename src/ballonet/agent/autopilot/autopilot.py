"""The autopilot of a host: each round goes through the law, and what that decides is carried out.

Until it is enabled it tries only: everything is decided, shown and written down, and no machine is
asked for anything.  What is asked for is never taken back: whenever the agent ends, however, each
guest was asked to keep at least what it used, and all of them together fit beside the reserve.
Units: bytes left to the guest (logical size), seconds.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ballonet.agent.autopilot.asked_state import AskedState, Lease
from ballonet.agent.autopilot.ledger import Ledger
from ballonet.agent.autopilot.settings import AutopilotSettings, law_settings
from ballonet.agent.autopilot.targets import Request, Targets
from ballonet.agent.autopilot.traits import Traits
from ballonet.agent.autopilot.waits import Waits
from ballonet.agent.labels import vm_names
from ballonet.agent.round import Round
from ballonet.autopilot.alarms import AlarmKind
from ballonet.autopilot.constants import DEFAULTS
from ballonet.autopilot.explanation import Verdict
from ballonet.autopilot.law import FIRST, LawState, Step, not_delivered, step
from ballonet.autopilot.prediction import donors_of, seconds_until
from ballonet.autopilot.sample import Round as LawRound
from ballonet.vms.autopilot_sample import host_sample, vm_sample
from ballonet.vms.discovery import Found
from ballonet.vms.sighting import Sighting

__all__ = ["Autopilot", "Tally"]

_log = logging.getLogger(__name__)


class Tally:
    """What has happened since the start."""

    def __init__(self) -> None:
        self.raised: Counter[str] = Counter()  #: requests, by reason
        self.lowered: Counter[str] = Counter()
        self.moved_bytes = 0
        self.turns = 0  #: requests for more after one for less, or the other way
        self.undelivered = 0
        self.step_s = 0.0  #: processor time of the newest step of the law
        self._rose: dict[str, bool] = {}  # the newest request of each machine

    def note(self, verdict: Verdict) -> None:
        """One more request."""
        rises = verdict.to_bytes > verdict.from_bytes
        (self.raised if rises else self.lowered)[verdict.reason.name.lower()] += 1
        self.moved_bytes += abs(verdict.to_bytes - verdict.from_bytes)
        self.turns += self._rose.get(verdict.vm, rises) is not rises
        self._rose[verdict.vm] = rises

    def forget(self, vm: str) -> None:
        """It is gone."""
        self._rose.pop(vm, None)


class Autopilot:
    """A taker of rounds, on their loop; `close` it at the end."""

    def __init__(self, settings: AutopilotSettings, directory: Path) -> None:
        self.settings = settings
        self.asked: Final = AskedState(directory)
        self.ledger: Final = Ledger(directory)
        self.tally: Final = Tally()
        self.waits: Final = Waits()
        self.newest: Step | None = None
        self.rounds = 0  #: so far
        self.machines: Mapping[str, Found] = {}  #: of the newest round, by the law's names
        self._state: LawState = FIRST
        self._targets = Targets(self._not_delivered)
        self._traits = Traits()
        self._alarms: frozenset[tuple[AlarmKind, str]] = frozenset()  # said already
        self._told: dict[str, Verdict] = {}  # the newest decision that was written down

    @property
    def is_dry_run(self) -> bool:
        """Nobody is asked for anything."""
        return not self.settings.enable or self.asked.wishes.is_dry_run

    @property
    def next_look_s(self) -> float:
        """How soon it wants another round; trying only, it takes them as they come."""
        return float("inf") if self.is_dry_run or self.newest is None else self.newest.next_look_s

    @property
    def is_acting(self) -> bool:
        """What guests say decides."""
        return not self.is_dry_run

    @property
    def is_hurried(self) -> bool:
        """Something moves: what they said a second ago is old."""
        return self.next_look_s <= DEFAULTS.look_hurried_s

    def take(self, one: Round) -> None:
        """Decide, and begin to carry it out."""
        names = vm_names([found.sighting.who for found in one.found])
        self.machines = dict(zip(names, one.found, strict=True))
        sightings = {vm: found.sighting for vm, found in self.machines.items()}
        self._traits.ask(sightings.values())
        seen = self._seen(one)
        settings = law_settings(
            self.settings, sightings, self.asked.wishes.paused, is_dry_run=self.is_dry_run
        )
        begun_s = time.thread_time()
        decided = step(self._state, seen, settings)
        self.tally.step_s = time.thread_time() - begun_s
        self._state, self.newest = decided.state, decided
        self.rounds += 1
        self._note(decided, seen)
        for gone in self._told.keys() - sightings.keys():
            self._forget(gone)
        if not settings.is_dry_run:
            self.waits.follow(decided, settings.constants)
            for verdict in decided.changes:
                self._ask(verdict, sightings[verdict.vm])

    def configure(self, settings: AutopilotSettings) -> None:
        """Follow other settings from now on."""
        self.settings = settings
        self._stop_asking_if_dry()

    def pause(self, vm: str) -> None:
        """Leave a machine alone from now on."""
        self._targets.forget(vm)
        self.asked.change(paused=self.asked.wishes.paused | {vm})

    def resume(self, vm: str) -> None:
        """Leave it alone no more."""
        self.asked.change(paused=self.asked.wishes.paused - {vm})

    def try_only(self, *, is_dry_run: bool) -> None:
        """Ask nobody for anything from now on; what was asked for stands."""
        self.asked.change(is_dry_run=is_dry_run)
        self._stop_asking_if_dry()

    def reserve(self, size: int, seconds: float) -> None:
        """Keep so much more for the host, instead of what was kept so before; 0: nothing."""
        lease = Lease(size, time.time() + seconds) if size else None
        self.asked.change(lease=lease)

    def seconds_until_reserved(self) -> float | None:
        """Until what is kept for the host is there; 0: it is, None: never."""
        if self.newest is None:
            return None
        free_bytes = self.newest.budget.free_bytes
        return seconds_until(donors_of(self.newest, DEFAULTS), 0, free_bytes)

    async def close(self) -> None:
        """Ask nobody any more."""
        await self._targets.close()
        await self._traits.close()

    def _stop_asking_if_dry(self) -> None:
        if self.is_dry_run:
            self._targets.forget_all()

    def _seen(self, one: Round) -> LawRound:
        """A round as the law takes it."""
        samples = [
            vm_sample(
                vm,
                found.observation,
                now_s=one.ended_s,
                why_not=found.why_not,
                deflates_on_oom=self._traits.deflates_on_oom(found.sighting),
            )
            for vm, found in self.machines.items()
        ]
        return LawRound(
            one.ended_s,
            host_sample(one.host),
            tuple(samples),
            one.period_s,
            self.asked.wishes.lease_bytes,
        )

    def _ask(self, verdict: Verdict, sighting: Sighting) -> None:
        self.tally.note(verdict)
        self._targets.ask(Request(verdict.vm, sighting, verdict.from_bytes, verdict.to_bytes))

    def _not_delivered(self, request: Request, why_not: str) -> None:
        """It keeps what it had, and is asked for that again."""
        self.tally.undelivered += 1
        _log.info("%s is not asked for memory: %s", request.vm, why_not)
        self._state = not_delivered(self._state, request.vm, request.from_bytes)

    def _note(self, decided: Step, seen: LawRound) -> None:
        """Write down what is new; a decision that is only tried is made again each round."""
        new = [one for one in decided.changes if self._is_new(one)]
        for one in new:
            self._told[one.vm] = one
            _log.info("%s%s", "would move " if self.is_dry_run else "", one)
        self.ledger.note(new, seen if self.settings.record_rounds else None)
        for alarm in decided.alarms:
            if (alarm.kind, alarm.vm) not in self._alarms:
                _log.warning("%s", alarm.text)
        self._alarms = frozenset((one.kind, one.vm) for one in decided.alarms)

    def _is_new(self, verdict: Verdict) -> bool:
        told = self._told.get(verdict.vm)
        if told is None or not self.is_dry_run:
            return True
        band_bytes = DEFAULTS.dead_band_of(max(verdict.from_bytes, verdict.to_bytes))
        return abs(told.to_bytes - verdict.to_bytes) >= band_bytes

    def _forget(self, vm: str) -> None:
        del self._told[vm]
        self.tally.forget(vm)
        self._targets.forget(vm)
        self.ledger.forget([vm])
