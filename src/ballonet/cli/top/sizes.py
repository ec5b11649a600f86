"""Sizes that a person asks for in `ballonet top`, on their way beside everything else.

Each is as safe as that of `ballonet set --wait`, because it is the same: a floor, a verdict, and a
request that hurts the guest is taken back.
Units: bytes, seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Final, Self

from ballonet.cli.set import outcome_in_words
from ballonet.cli.top.rows import Row, RowKey
from ballonet.errors import BallonetError
from ballonet.vms.adapters import ADAPTERS, connected_to
from ballonet.vms.change import Progress
from ballonet.vms.condition import CONDITION_OF, Condition
from ballonet.vms.resize import Outcome, Resize
from ballonet.vms.watch import Watch

__all__ = ["SizeRequests"]

_DEADLINE_S: Final = 30.0
_log = logging.getLogger(__name__)


class _Request:
    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.progress: Progress | None = None
        self.outcome: Outcome | None = None
        self.words = ""

    @property
    def is_open(self) -> bool:
        return self.task is not None and not self.task.done()


class SizeRequests:
    """A context manager: what is still on its way at its end is not waited for, but stands."""

    def __init__(self, watch: Watch, say: Callable[[str], None]) -> None:
        """`say`: told what came of a request, and with nothing to say that it goes on."""
        self._watch, self._say = watch, say
        self._requests: dict[RowKey, _Request] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        tasks = [one.task for one in self._requests.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def ask(self, row: Row, size_bytes: int | None) -> None:
        """Begin; None: as little as the guest can live with.  An older request is let go."""
        before, request = self._requests.get(row.key), _Request()
        self._requests[row.key] = request
        request.task = asyncio.ensure_future(self._run(row, size_bytes, request, before))

    def seen(self, rows: Iterable[Row]) -> list[Row]:
        """A round's rows, with what is known of the requests."""
        return [self._with_request(row) for row in rows]

    def _with_request(self, row: Row) -> Row:
        request = self._requests.get(row.key)
        if request is None:
            return row
        progress, outcome = request.progress, request.outcome
        if request.is_open:
            if progress is None:
                return replace(row, condition=Condition.ASKED)
            look = replace(row.look, actual_bytes=progress.now_bytes)
            condition = Condition.MOVING if progress.bytes_per_s else Condition.ASKED
            return replace(row, found=replace(row.found, observation=look), condition=condition)
        row = replace(row, note=request.words)
        if row.condition is not Condition.QUIET or outcome is None or outcome.verdict is None:
            return row
        if outcome.actual_bytes != row.look.actual_bytes:
            return row  # something else has happened since
        return replace(row, condition=CONDITION_OF[outcome.verdict])

    async def _run(
        self, row: Row, size_bytes: int | None, request: _Request, before: _Request | None
    ) -> None:
        if before is not None and before.task is not None:
            before.task.cancel()
            await asyncio.wait([before.task])
        sighting = row.found.sighting
        is_shared = not ADAPTERS[sighting.who.kind].one_client
        if not is_shared:
            self._watch.spared.add(sighting)
        try:
            if sighting.why_not:
                request.words = f"it cannot be reached: {sighting.why_not}"
                return
            async with connected_to(sighting) as vm:
                resize = Resize(vm, size_bytes, partial(self._note, request))
                request.outcome = await resize.run(force=False, deadline_s=_DEADLINE_S)
            request.words = outcome_in_words(request.outcome)
        except BallonetError as error:
            request.words = str(error)
        except Exception:  # a bug must not end what shows everybody else
            _log.exception("asking %s for a size", row.name)
            request.words = "a bug of ballonet's has ended this request"
        finally:
            self._watch.spared.discard(sighting)
            if request.words:
                self._say(f"{row.name}: {request.words}")

    def _note(self, request: _Request, progress: Progress) -> None:
        request.progress = progress
        self._say("")
