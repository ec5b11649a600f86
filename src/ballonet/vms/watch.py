"""Every machine of this computer, looked at again and again.

Theory of operation.  A round asks everybody at once, and waits for as long as its caller likes.
Who has not answered by then stays asked, is asked no second time, and is told with its last
observation and, after some seconds, how long it has kept silent: one that hangs makes a round no
longer than that, and the others' observations are of this round.  Which machines there are is
found out anew every few seconds, and in the next round when one that has answered does not any
more; that takes a round as long again at most.
Units: seconds, by a clock that never goes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

from ballonet.vms.discovery import LOOK_S, Found, asked_together, find_machines, look_together
from ballonet.vms.finding import Find, Finding, Patterns
from ballonet.vms.observation import Observation
from ballonet.vms.sighting import Sighting

__all__ = ["Watch"]

_FIND_EVERY_S: Final = 10.0
#: Who has not answered for so long keeps silent; also if there is another reason by then.
_SILENT_S: Final = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Question:
    """One that was not answered when it was last looked at."""

    task: asyncio.Task[list[Found]]
    asked: Sequence[Sighting]


class Watch:
    """A context manager; rounds are made inside, one after the other."""

    def __init__(
        self,
        match: Patterns = ("*",),
        exclude: Patterns = (),
        find: Find = find_machines,
    ) -> None:
        """Of those whose name or `kind:name` some pattern matches, and none excludes."""
        self._finding = Finding(match, exclude, find)
        self._sightings: Sequence[Sighting] = ()
        self._found_s: float | None = None  # when it was last found out who is there
        self._open: dict[Sighting, _Question] = {}
        self._newest: dict[Sighting, Found] = {}
        self._silent_since_s: dict[Sighting, float] = {}  # asked then, and no answer yet
        #: Not asked, but told as they were: somebody talks to a monitor that serves one client.
        self.spared: set[Sighting] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        tasks = {question.task for question in self._open.values()}
        for task in tasks:
            task.cancel()
        await self._finding.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def problem(self) -> str:
        """Why it is not known which machines run; those known before are watched on."""
        return self._finding.problem

    async def round(self, patience_s: float) -> list[Found]:
        """Everybody's newest observation, by kind and name.

        `patience_s`: whoever takes longer is told as it was.
        """
        await self._find()
        busy = self._open.keys() | self.spared
        for together in asked_together(one for one in self._sightings if one not in busy):
            task = asyncio.ensure_future(look_together(together, LOOK_S))
            self._open |= dict.fromkeys(together, _Question(task, together))
            since_s = dict.fromkeys(together, time.monotonic())
            self._silent_since_s = since_s | self._silent_since_s
        if self._open:
            await asyncio.wait([one.task for one in self._open.values()], timeout=patience_s)
        self._take_answers()
        return [self._told(one) for one in self._sightings]

    async def _find(self) -> None:
        """Find out who is there, if that is due; a host that hangs delays only who is new."""
        now_s = time.monotonic()
        if self._found_s is not None and now_s - self._found_s < _FIND_EVERY_S:
            return
        self._sightings = await self._finding.find()
        if self._finding.is_open:
            return
        self._found_s = now_s
        known = frozenset(self._sightings)
        self._newest = {one: found for one, found in self._newest.items() if one in known}
        since_s = self._silent_since_s
        self._silent_since_s = {one: at_s for one, at_s in since_s.items() if one in known}

    def _take_answers(self) -> None:
        answered = {id(one): one for one in self._open.values() if one.task.done()}
        for question in answered.values():
            for one in question.asked:
                del self._open[one]
            try:
                found = question.task.result()
            except Exception:  # a bug must not end the watch over everybody else
                _log.exception("looking at %s", question.asked[0].who.name)
                continue
            if any(self._fails_anew(one) for one in found):
                self._found_s = None  # it may be gone
            for answer in found:
                self._note(answer)

    def _fails_anew(self, found: Found) -> bool:
        """It has answered before, and does not any more."""
        before = self._newest.get(found.sighting)
        return bool(found.why_not) and before is not None and not before.why_not

    def _note(self, answer: Found) -> None:
        sighting, now_s = answer.sighting, time.monotonic()
        silent_s = now_s - self._silent_since_s.get(sighting, now_s)
        if answer.why_not and not sighting.why_not and silent_s >= _SILENT_S:
            newest = self._newest.get(sighting, answer)
            answer = replace(newest, why_not=answer.why_not, silent_s=silent_s)
        else:
            self._silent_since_s.pop(sighting, None)
        self._newest[sighting] = answer

    def _told(self, sighting: Sighting) -> Found:
        now_s = time.monotonic()
        silent_s = now_s - self._silent_since_s.get(sighting, now_s)
        newest = self._newest.get(sighting)
        if newest is None:
            look = Observation(sighting.who, now_s)
            return Found(sighting, look, "it has not answered yet", silent_s)
        if silent_s < _SILENT_S or (newest.why_not and newest.silent_s is None):
            return newest
        why_not = newest.why_not or f"it keeps silent for {silent_s:.0f} s"
        return replace(newest, why_not=why_not, silent_s=silent_s)
