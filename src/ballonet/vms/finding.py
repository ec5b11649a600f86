"""Which machines are watched: found out in the background, so that no round waits for it.

A host of ours that hangs delays what is found, by seconds; a round takes what was known before.
Units: seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from ballonet.vms.addresses import find_matching
from ballonet.vms.discovery import find_machines
from ballonet.vms.sighting import Sighting

__all__ = ["Find", "Finding", "Patterns"]

#: How long the first round that asks waits for it; reading /proc takes some ten milliseconds.
_PATIENCE_S: Final = 0.5

Find = Callable[[], Awaitable[list[Sighting]]]
#: No sequence of them in general: a pattern alone would be one, of its letters.
Patterns = list[str] | tuple[str, ...]


class Finding:
    """`find` belongs to one task at a time; `close` it at the end."""

    def __init__(self, match: Patterns, exclude: Patterns, find_all: Find = find_machines) -> None:
        self._match, self._exclude, self._find_all = match, exclude, find_all
        self._task: asyncio.Future[list[Sighting]] | None = None
        self._known: list[Sighting] | None = None
        self.problem = ""  #: why the newest attempt has failed

    @property
    def is_open(self) -> bool:
        """It is being found out: what `find` has returned was known before."""
        return self._task is not None

    async def find(self) -> list[Sighting]:
        """Those that match, or those that did when it was last known."""
        patience_s: float | None = 0.0  # who comes again has waited before
        if self._task is None:
            self._task = asyncio.ensure_future(self._find_all())
            patience_s = _PATIENCE_S
        if self._known is None:  # there is nothing else to tell; `find_all` itself is bounded
            patience_s = None
        await asyncio.wait([self._task], timeout=patience_s)
        if self._task.done():
            task, self._task = self._task, None
            try:
                self._known = self._selected(task.result())
                self.problem = ""
            except Exception as error:  # whatever it is, those known before are watched on
                self.problem = str(error) or type(error).__name__
        return self._known or []

    async def close(self) -> None:
        """Find nothing any more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._task

    def _selected(self, sightings: list[Sighting]) -> list[Sighting]:
        """Those that some pattern matches and none excludes, in their order."""
        wanted = {one for pattern in self._match for one in find_matching(sightings, pattern)}
        unwanted = {one for pattern in self._exclude for one in find_matching(sightings, pattern)}
        return [one for one in sightings if one in wanted and one not in unwanted]
