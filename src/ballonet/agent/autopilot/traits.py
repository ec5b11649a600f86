"""What a machine is for as long as it lives, asked once: whether its balloon deflates on OOM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from ballonet.errors import BallonetError
from ballonet.vms.adapters import connected_to
from ballonet.vms.sighting import Sighting

__all__ = ["Traits"]

_EACH_S: Final = 6.0
_AT_ONCE: Final = 16
_log = logging.getLogger(__name__)


class Traits:
    """Belongs to one loop; `close` it at the end."""

    def __init__(self) -> None:
        self._deflates: dict[Sighting, bool | None] = {}  # None: it does not say
        self._asking: dict[Sighting, asyncio.Task[None]] = {}

    def ask(self, sightings: Iterable[Sighting]) -> None:
        """Begin to ask whoever was not asked yet; those that are gone are forgotten."""
        here = frozenset(sightings)
        self._deflates = {one: said for one, said in self._deflates.items() if one in here}
        new = [one for one in here if one not in self._deflates and not one.why_not]
        for one in new[: max(0, _AT_ONCE - len(self._asking))]:
            if one not in self._asking:
                task = asyncio.ensure_future(self._find(one))
                self._asking[one] = task

    def deflates_on_oom(self, sighting: Sighting) -> bool | None:
        """Its kernel may take memory out of the balloon; None: that is not known."""
        return self._deflates.get(sighting)

    async def close(self) -> None:
        """Ask nobody any more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _find(self, sighting: Sighting) -> None:
        said = None
        try:
            async with asyncio.timeout(_EACH_S), connected_to(sighting) as machine:
                said = await machine.deflates_on_oom()
        except (BallonetError, TimeoutError):
            pass  # asked no second time: it is counted as if it did
        except Exception:  # a fault of ours must not end the rounds
            _log.exception("asking %s", sighting.who.name)
        finally:
            self._deflates[sighting] = said
            del self._asking[sighting]
