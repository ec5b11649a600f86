"""Guests that nobody asks for statistics are asked while somebody watches, and then left as before.

An interval that somebody else has chosen stays.  Units: seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from ballonet.errors import BallonetError
from ballonet.vms.adapters import ADAPTERS, connected_to
from ballonet.vms.discovery import Found, asked_together
from ballonet.vms.sighting import Sighting

__all__ = ["PollKeeper"]

#: For those of one question, connection and all.
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
        await asyncio.gather(*(self._begin(some) for some in _together(silent)))

    async def put_back(self) -> None:
        """Ask nobody any more, whom nobody else has given another interval."""
        asked, self._asked = self._asked, set()
        await asyncio.gather(*(self._end(some) for some in _together(asked)))

    async def _begin(self, some: Sequence[Sighting]) -> None:
        self._asked.update(some)  # before it is changed: this may be cut short
        done: Collection[Sighting] = ()
        with suppress(BallonetError, TimeoutError):
            done = await _change(some, self._interval_s, instead_of_s=0)
        self._refused.update(one for one in some if one not in done)

    async def _end(self, some: Sequence[Sighting]) -> None:
        with suppress(BallonetError, TimeoutError):  # it is gone, and its polling with it
            await _change(some, 0, instead_of_s=self._interval_s)


def _together(sightings: Iterable[Sighting]) -> Iterator[Sequence[Sighting]]:
    """Parted into those that are told in one question."""
    for some in asked_together(sightings):
        if ADAPTERS[some[0].who.kind].change_polling is None:
            yield from ([one] for one in some)
        else:
            yield some


async def _change(
    some: Sequence[Sighting], interval_s: int, *, instead_of_s: int
) -> Collection[Sighting]:
    """Have them asked so often, if they are asked so often now; who is, then.

    Raises: BallonetError, TimeoutError.
    """
    first = some[0]
    change_polling = ADAPTERS[first.who.kind].change_polling
    async with asyncio.timeout(_EACH_S):
        if first.place and change_polling is not None:
            names = [one.who.name for one in some]
            done = await change_polling(first.place, names, interval_s, instead_of_s)
            return {one for one in some if one.who.name in done}
        async with connected_to(first) as machine:
            if await machine.poll_interval() != instead_of_s:
                return ()
            await machine.set_poll_interval(interval_s)
    return some
