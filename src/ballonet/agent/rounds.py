"""Rounds of observations, one each period, for whoever takes them.

What any machine, libvirtd or /proc does ends no round and delays none: who has not answered in time
is told as it was (`vms.watch`), and guests' intervals are changed beside the rounds.
Units: seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Final, Protocol

from ballonet.agent.configuration import AgentSettings
from ballonet.agent.round import Round, Taker
from ballonet.vms.discovery import Found
from ballonet.vms.poll_keeper import PollKeeper
from ballonet.vms.sighting import Sighting
from ballonet.vms.this_host import look_at_this_host
from ballonet.vms.watch import Watch

__all__ = ["Pace", "Rounds"]

#: Of the period, for the machines' answers.
_PATIENCE_SHARE: Final = 0.75
#: More changes nothing: each machine is given up after as long.
_PATIENCE_MOST_S: Final = 6.0
#: For having guests asked now, and for their answers: a guest answers within 6 to 35 ms.
_ASK_S: Final = 0.3
_ANSWER_S: Final = 0.04
#: For putting back, and hanging up; each machine has 6 s, and all are told at once.
_END_S: Final = 10.0
_log = logging.getLogger(__name__)

#: The interval, and the machines that have it from us.
NoteAsked = Callable[[int, Collection[Sighting]], None]


class Pace(Protocol):
    """Of somebody who may want rounds sooner than they come."""

    @property
    def next_look_s(self) -> float:
        """How soon."""
        ...

    @property
    def is_acting(self) -> bool:
        """What guests say decides."""
        ...

    @property
    def is_hurried(self) -> bool:
        """... and what they said a second ago is old."""
        ...


class Rounds:
    """Are made from the beginning on, on the running loop, until they are ended."""

    def __init__(
        self,
        settings: AgentSettings,
        takers: Sequence[Taker],
        numbers: Iterator[int],
        note_asked: NoteAsked,
        pace: Pace,
    ) -> None:
        """`numbers`: of the rounds, from 1; `note_asked` is told whose interval was changed."""
        self._settings, self._takers, self._numbers = settings, takers, numbers
        self._note_asked, self._pace = note_asked, pace
        self._keeper = PollKeeper(settings.poll_interval_s)
        self._keeping: asyncio.Future[None] | None = None
        self._complaints: dict[str, str] = {}
        self.task = asyncio.ensure_future(self._run())  #: ends only by a fault of ours

    async def end(self) -> None:
        """Make no more, and put guests' intervals back; returns within a bounded time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await _cancelled(self.task)
                await _cancelled(self._keeping)
                await self._keeper.put_back()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        async with Watch(self._settings.match, self._settings.exclude) as watch:
            while True:
                await self._ask_now()
                await self._make(watch)
                due_s = max(due_s + self._period_s, loop.time())
                await asyncio.sleep(due_s - loop.time())

    @property
    def _period_s(self) -> float:
        """To the next round, as it looks now."""
        return min(self._settings.period_s, self._pace.next_look_s)

    async def _ask_now(self) -> None:
        """Have the guests asked whose interval is ours, if what they say decides."""
        if self._pace.is_acting:
            with suppress(TimeoutError):
                async with asyncio.timeout(_ASK_S):
                    await self._keeper.ask_now(everybody=self._pace.is_hurried)
            await asyncio.sleep(_ANSWER_S)

    async def _make(self, watch: Watch) -> None:
        begun_s = time.monotonic()
        patience_s = min(_PATIENCE_SHARE * self._settings.period_s, _PATIENCE_MOST_S)
        try:
            found = await watch.round(patience_s)
        except Exception as error:  # a fault of ours must not end the next rounds
            self._complain("a round has failed", repr(error))
            return
        self._complain("a round has failed", "")
        self._complain("which machines run is not found out", watch.problem)
        self._keep(found)
        ended_s = time.monotonic()
        one = Round(
            number=next(self._numbers),
            ended_s=ended_s,
            ended_wall_s=time.time(),
            duration_s=ended_s - begun_s,
            period_s=self._period_s,
            found=tuple(found),
            host=look_at_this_host(),
            problem=watch.problem,
        )
        for taker in self._takers:
            try:
                taker(one)
            except Exception as error:  # the others must have it, and the next
                self._complain(f"{taker!r} takes no round", repr(error))

    def _keep(self, found: Sequence[Found]) -> None:
        """Have silent guests asked, beside the rounds: one that hangs delays none."""
        if not self._settings.poll_interval_s:
            return
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.ensure_future(self._keep_all(found))

    async def _keep_all(self, found: Sequence[Found]) -> None:
        await self._keeper.keep(found)
        self._note_asked(self._settings.poll_interval_s, self._keeper.asked)

    def _complain(self, what: str, why: str) -> None:
        """Say it once, for as long as it is the same; an empty `why` ends that."""
        if why and why != self._complaints.get(what):
            _log.warning("%s: %s", what, why)
        self._complaints[what] = why


async def _cancelled(task: asyncio.Future[None] | None) -> None:
    """The end of a task; how it ended is of no more interest."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
