"""What QMP has for moving a machine: a method for each command, every reply checked.

In which order they are sent is `migration.py`'s business.
Units: bytes, milliseconds as QEMU has them, seconds.
Source: QEMU qapi/migration.json.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from ballonet.errors import CommandRefusedError, GuestError
from ballonet.vms.foreign_commands import MIGRATION_CAPABILITIES, MIGRATION_PARAMETERS
from ballonet.vms.migration_progress import MigrationLook, parse_look
from ballonet.vms.qmp_monitor import QmpMonitor
from ballonet.vms.reply import integer, member, optional

__all__ = ["QmpMigration"]

_CAPABILITIES: Final = "query-migrate-capabilities"
_PARAMETERS: Final = "query-migrate-parameters"
_DIRTY_RATE: Final = "query-dirty-rate"
_EVENTS: Final = ("MIGRATION", "MIGRATION_PASS")
_MIB: Final = 1 << 20


class QmpMigration:
    """A `MachineMigration`."""

    def __init__(self, monitor: QmpMonitor) -> None:
        self._monitor = monitor
        self._happened = asyncio.Event()
        monitor.observe(self._take_event)

    async def capabilities(self) -> dict[str, bool]:
        """Those of ours that the machine knows, and whether they are on."""
        rows = await self._monitor.execute_to_migrate(_CAPABILITIES, {})
        found = {}
        for row in rows if isinstance(rows, list) else []:
            name = member(row, "capability", str, _CAPABILITIES)
            if name in MIGRATION_CAPABILITIES:
                found[name] = member(row, "state", bool, _CAPABILITIES)
        return found

    async def set_capabilities(self, states: Mapping[str, bool]) -> None:
        """Switch some."""
        rows = [{"capability": name, "state": state} for name, state in states.items()]
        await self._monitor.execute_to_migrate("migrate-set-capabilities", {"capabilities": rows})

    async def parameters(self) -> dict[str, int]:
        """Those of ours that the machine knows."""
        reply = await self._monitor.execute_to_migrate(_PARAMETERS, {})
        return {
            name: integer(reply, name, _PARAMETERS)
            for name in MIGRATION_PARAMETERS
            if optional(reply, name, int, _PARAMETERS) is not None
        }

    async def set_parameters(self, values: Mapping[str, int]) -> None:
        """Change some."""
        await self._monitor.execute_to_migrate("migrate-set-parameters", values)

    async def begin(self, uri: str, *, resumes: bool = False) -> None:
        """Begin, or go on; that it has begun does not mean that the destination is there."""
        arguments: dict[str, object] = {"uri": uri}
        await self._monitor.execute_to_migrate(
            "migrate", arguments | {"resume": True} if resumes else arguments
        )

    async def begin_postcopy(self) -> None:
        """Have the guest go on at the destination now; there is no way back."""
        await self._monitor.execute_to_migrate("migrate-start-postcopy", {})

    async def cancel(self) -> None:
        """End it, if it has not ended; it takes a moment."""
        await self._monitor.execute_to_migrate("migrate_cancel", {})

    async def look(self) -> MigrationLook:
        """Where it stands."""
        return parse_look(await self._monitor.execute_to_migrate("query-migrate", {}))

    async def wait(self, timeout_s: float) -> None:
        """Until the machine tells that something has happened, or time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._happened.wait()
        self._happened.clear()

    async def begin_dirty_rate(self, seconds: int) -> None:
        """Measure for so long how much the guest writes. Raises: GuestError, if it cannot."""
        try:
            await self._monitor.execute("calc-dirty-rate", calc_time=seconds)
        except CommandRefusedError as error:
            raise GuestError(f"the machine cannot measure what it writes: {error.desc}") from error

    async def dirty_bytes_per_s(self) -> int | None:
        """What was measured; None: it is not done."""
        reply = await self._monitor.execute(_DIRTY_RATE)
        if member(reply, "status", str, _DIRTY_RATE) != "measured":
            return None
        return max(0, integer(reply, "dirty-rate", _DIRTY_RATE)) * _MIB

    def _take_event(self, event: Mapping[str, object]) -> None:
        if event.get("event") in _EVENTS:
            self._happened.set()
