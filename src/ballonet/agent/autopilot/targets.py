"""Decisions on their way to the machines: each machine by itself, the newest decision wins.

A command takes as long as its monitor likes, and what was decided is of one moment.  So memory is
taken by a decision only while that is fresh: one that could not be delivered at once is given up,
and the machine is asked for what it had before, again and again until it takes that.  More memory
is offered until it is taken or something else is decided.
Units: bytes left to the guest (logical size), seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from ballonet.errors import BallonetError, CommandRefusedError, GuestError
from ballonet.vms.adapters import connected_to
from ballonet.vms.machine import Machine
from ballonet.vms.migration_progress import MigrationStage
from ballonet.vms.sighting import Sighting

__all__ = ["Failed", "Request", "Targets"]

#: For connection and command; what is taken is decided anew every second.
_EACH_S: Final = 2.0
_AGAIN_S: Final = 1.0
#: Of a migration; a guest that has left, or will, is its mover's.
_AT_REST: Final = frozenset({MigrationStage.NONE, MigrationStage.CANCELLED, MigrationStage.FAILED})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One decision for one machine."""

    vm: str
    sighting: Sighting
    from_bytes: int
    to_bytes: int

    @property
    def takes(self) -> bool:
        """The guest is to keep less."""
        return self.to_bytes < self.from_bytes


#: Is told of a request that was given up: the machine is asked for what it had before.
Failed = Callable[[Request, str], None]


class Targets:
    """Belongs to one loop; `close` it at the end."""

    def __init__(self, failed: Failed) -> None:
        self._failed = failed
        self._wanted: dict[str, Request] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def ask(self, request: Request) -> None:
        """Begin, instead of whatever is on its way to that machine."""
        self._wanted[request.vm] = request
        if request.vm not in self._tasks:
            task = asyncio.ensure_future(self._carry_out(request.vm))
            self._tasks[request.vm] = task
            task.add_done_callback(lambda _: self._tasks.pop(request.vm, None))

    def forget(self, vm: str) -> None:
        """It is gone, or somebody else's now."""
        self._wanted.pop(vm, None)

    def forget_all(self) -> None:
        """Nobody is to be asked any more; what was sent stands."""
        self._wanted.clear()

    @property
    def on_their_way(self) -> int:
        """Machines that do not know yet what they are asked for."""
        return len(self._tasks)

    async def close(self) -> None:
        """Ask nobody any more; what was sent stands."""
        self.forget_all()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, vm: str) -> None:
        """Until the newest request has arrived, or nothing is wanted any more."""
        while (request := self._wanted.get(vm)) is not None:
            why_not = await _sent(request)
            if self._wanted.get(vm) is not request:
                continue  # something else was decided meanwhile
            if not why_not:
                del self._wanted[vm]
                return
            _log.debug("%s is not asked for %d bytes: %s", vm, request.to_bytes, why_not)
            if request.takes:
                # Whether it has arrived is not known.
                self._wanted[vm] = replace(request, to_bytes=request.from_bytes)
                self._failed(request, why_not)
            await asyncio.sleep(_AGAIN_S)


async def _sent(request: Request) -> str:
    """Ask once; why that did not work, or nothing."""
    try:
        async with asyncio.timeout(_EACH_S), connected_to(request.sighting) as machine:
            await _check_at_rest(machine)
            await machine.set_logical_bytes(request.to_bytes)
    except TimeoutError:
        return f"it has not answered within {_EACH_S:.0f} s"
    except BallonetError as error:
        return str(error)
    except Exception as error:  # a fault of ours must not end what others are asked for
        _log.exception("asking %s", request.vm)
        return repr(error)
    return ""


async def _check_at_rest(machine: Machine) -> None:
    """Raises: GuestError, if it migrates; MonitorError."""
    try:
        migration = machine.migration
    except GuestError:
        return  # by whom it is moved refuses a change meanwhile, or it cannot be moved
    stage = MigrationStage.NONE
    with suppress(CommandRefusedError):
        stage = (await migration.look()).stage
    if stage not in _AT_REST:
        raise GuestError(f"it migrates: {stage.value}")
