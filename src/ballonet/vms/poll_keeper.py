"""Guests that nobody asks for statistics are asked while somebody watches, and then left as before.

An interval that somebody else has chosen stays.  Units: seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from ballonet.errors import BallonetError
from ballonet.vms.adapters import connected_to
from ballonet.vms.discovery import Found
from ballonet.vms.sighting import Sighting

__all__ = ["PollKeeper"]

#: For one machine, connection and all.
_EACH_S: Final = 6.0


class PollKeeper:
    """Belongs to one task at a time; whoever uses it calls `put_back` on every way out."""

    def __init__(self, interval_s: int) -> None:
        self._interval_s = interval_s
        self._asked: set[Sighting] = set()  # whose interval is ours to put back
        self._refused: set[Sighting] = set()

    async def keep(self, found: Iterable[Found]) -> None:
        """Have those asked that nobody asks; who refuses is not asked a second time."""
        silent = [
            one.sighting
            for one in found
            if not one.why_not
            and one.observation.poll_interval_s == 0
            and one.sighting not in self._refused
        ]
        await asyncio.gather(*(self._begin(one) for one in silent))

    async def put_back(self) -> None:
        """Ask nobody any more, whom nobody else has given another interval."""
        asked, self._asked = self._asked, set()
        await asyncio.gather(*(self._end(one) for one in asked))

    async def _begin(self, sighting: Sighting) -> None:
        self._asked.add(sighting)  # before it is changed: this may be cut short
        try:
            async with asyncio.timeout(_EACH_S), connected_to(sighting) as machine:
                await machine.set_poll_interval(self._interval_s)
        except (BallonetError, TimeoutError):
            self._refused.add(sighting)

    async def _end(self, sighting: Sighting) -> None:
        with suppress(BallonetError, TimeoutError):  # it is gone, and its polling with it
            async with asyncio.timeout(_EACH_S), connected_to(sighting) as machine:
                if await machine.poll_interval() == self._interval_s:
                    await machine.set_poll_interval(0)
