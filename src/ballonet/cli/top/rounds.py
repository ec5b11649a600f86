"""Rounds of all machines for `ballonet top`; whoever was asked for statistics is left as before.

Units: seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import click

from ballonet.cli.top.piloted import ask_autopilot, with_autopilot
from ballonet.cli.top.recalled import ask_past
from ballonet.cli.top.rows import Row, Tracks
from ballonet.errors import MonitorError
from ballonet.vms.discovery import LOOK_S, Found
from ballonet.vms.poll_keeper import PollKeeper
from ballonet.vms.watch import Watch

__all__ = ["Rounds"]

#: Whoever takes longer is shown as it was; the others are not kept waiting.
_PATIENCE_S: Final = 1.0
#: Where there is one round only, everybody has all the time there is for one machine.
_WHOLE_PATIENCE_S: Final = LOOK_S + 1.0
#: A guest answers for its statistics within 0.04 s, unless it is very busy.
_STATS_S: Final = 3.0
_WAITING: Final = "ballonet: a VM does not answer; leaving its statistics as before ..."
#: Longer than this a person wonders.
_PROMPT_S: Final = 1.0
_LOOK_S: Final = 0.25


class Rounds:
    """A context manager; rounds are made inside, one after the other."""

    def __init__(self, pattern: str, interval_s: float) -> None:
        self.interval_s = interval_s
        self.watch = Watch([pattern])
        self._keeper = PollKeeper(max(1, round(interval_s)))
        self._keeping: asyncio.Task[None] | None = None
        self._tracks, self._has_recalled = Tracks(), False
        self._begun_s = time.monotonic()

    async def __aenter__(self) -> Self:
        await self.watch.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        try:
            if self._keeping is not None:
                self._keeping.cancel()
                await asyncio.wait([self._keeping])
            await self._put_back()
        finally:
            await self.watch.__aexit__(kind, error, where)

    async def next(self) -> list[Row]:
        """The newest of everybody, and statistics asked for meanwhile."""
        self._begun_s = time.monotonic()
        asking = asyncio.ensure_future(ask_autopilot())
        found = await self.watch.round(min(_PATIENCE_S, self.interval_s))
        if self._keeping is None or self._keeping.done():
            # On its own: one that does not take its interval holds up nobody.
            self._keeping = asyncio.ensure_future(self._keeper.keep(self._free(found)))
        if not self._has_recalled:
            self._has_recalled = True
            self._tracks.recall(await ask_past(self.interval_s))
        return with_autopilot(self._tracks.see(found), await asking)

    async def only(self) -> list[Row]:
        """One round, for which statistics had one chance to arrive. Raises: MonitorError."""
        first = await self.watch.round(_WHOLE_PATIENCE_S)
        if self.watch.problem:
            raise MonitorError(self.watch.problem)
        await self._keeper.keep(first)
        waited_for = {
            one.sighting: one.observation.stats_last_update_s
            for one in first
            if one.observation.poll_interval_s == 0 and one.observation.has_driver is not False
        }
        found, end_s = first, time.monotonic() + _STATS_S
        while time.monotonic() < end_s and any(
            waited_for.get(one.sighting, -1) == one.observation.stats_last_update_s for one in found
        ):
            await asyncio.sleep(_LOOK_S)
            found = await self.watch.round(_PATIENCE_S)
        return with_autopilot(self._tracks.see(found), await ask_autopilot())

    async def _put_back(self) -> None:
        """A machine that hangs has some seconds; whoever waits for their prompt is told why."""
        ending = asyncio.ensure_future(self._keeper.put_back())
        try:
            done, _ = await asyncio.wait([ending], timeout=_PROMPT_S)
            if not done:
                with suppress(OSError):  # the terminal may be gone
                    click.echo(_WAITING, err=True)
                await asyncio.wait([ending])
        except asyncio.CancelledError:
            await asyncio.wait([ending])  # a signal does not end this: its own time does
            raise

    @property
    def left_s(self) -> float:
        """Until the next round is due."""
        return max(0.0, self._begun_s + self.interval_s - time.monotonic())

    def _free(self, found: Sequence[Found]) -> list[Found]:
        """Without those that a request for a size is talking to."""
        return [one for one in found if one.sighting not in self.watch.spared]
