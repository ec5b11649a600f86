"""Guests that nobody asks for statistics are asked while somebody watches, and then left as before.

An interval that somebody else has chosen stays.  A machine is known by where it is reached: one
that was started again there is put back once.
Units: seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ballonet.errors import BallonetError
from ballonet.vms.adapters import ADAPTERS, connected_to
from ballonet.vms.discovery import Found, asked_together
from ballonet.vms.sighting import Sighting

__all__ = ["PollKeeper"]

#: For those of one question, connection and all.
_EACH_S: Final = 6.0
#: One that has refused was perhaps busy, or its libvirtd was.
_AGAIN_S: Final = 60.0


class PollKeeper:
    """Belongs to one task at a time; whoever uses it calls `put_back` on every way out."""

    def __init__(self, interval_s: int) -> None:
        self._interval_s = interval_s
        self._asked: dict[tuple[str, str], Sighting] = {}  # whose interval is ours to put back
        self._refused_s: dict[Sighting, float] = {}

    async def keep(self, found: Iterable[Found]) -> None:
        """Have those asked that nobody asks; who has refused is left alone for a while."""
        now_s, found = time.monotonic(), list(found)
        here = {_reached_at(one.sighting) for one in found}
        self._asked = {at: one for at, one in self._asked.items() if at in here or _lives(one)}
        self._refused_s = {
            one: at_s for one, at_s in self._refused_s.items() if now_s - at_s < _AGAIN_S
        }
        silent = [
            one.sighting
            for one in found
            if not one.why_not
            and one.observation.poll_interval_s == 0
            and one.sighting not in self._refused_s
        ]
        await asyncio.gather(*(self._begin(some) for some in _together(silent)))

    async def ask_now(self, *, everybody: bool) -> None:
        """Have those asked at once whose interval is ours; else those that one question reaches."""
        parts = [
            some
            for some in _together(self._asked.values())
            if everybody or ADAPTERS[some[0].who.kind].change_polling is not None
        ]
        await asyncio.gather(*(self._ask(some) for some in parts))

    @property
    def asked(self) -> list[Sighting]:
        """Whose interval is to be put back."""
        return list(self._asked.values())

    def adopt(self, asked: Iterable[Sighting]) -> None:
        """Put theirs back too, which another keeper of the same interval could not."""
        self._asked |= {_reached_at(one): one for one in asked}

    async def put_back(self) -> None:
        """Ask nobody any more, whom nobody else has given another interval."""
        asked, self._asked = self._asked, {}
        await asyncio.gather(*(self._end(some) for some in _together(asked.values())))

    async def _begin(self, some: Sequence[Sighting]) -> None:
        # Before it is changed: this may be cut short.
        self._asked |= {_reached_at(one): one for one in some}
        done: Collection[Sighting] = ()
        with suppress(BallonetError, TimeoutError):
            done = await _change(some, self._interval_s, instead_of_s=0)
        now_s = time.monotonic()
        self._refused_s |= {one: now_s for one in some if one not in done}

    async def _ask(self, some: Sequence[Sighting]) -> None:
        # Polling that begins anew asks at once; cut short between, they are as they were found.
        with suppress(BallonetError, TimeoutError):
            await _change(some, 0, instead_of_s=self._interval_s)
            await _change(some, self._interval_s, instead_of_s=0)

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


def _reached_at(sighting: Sighting) -> tuple[str, str]:
    return sighting.who.kind, sighting.address


def _lives(sighting: Sighting) -> bool:
    """Its process runs, or is not known."""
    return sighting.who.pid is None or Path(f"/proc/{sighting.who.pid}").exists()
