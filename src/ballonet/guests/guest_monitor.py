"""The monitor of an embedded guest: it is stopped, asked and moved by QMP, as a QEMU is.

Commands come on the monitor's thread and are obeyed on the guest's loop.
Not here: the protocol (qmp), how it moves (migration_source.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from ballonet.errors import BallonetError, GuestError, MigrationError
from ballonet.guests.dirty_rate import DirtyRate
from ballonet.guests.embedded import EmbeddedMachine
from ballonet.guests.migration_source import MigrationSource
from ballonet.guests.movable_guest import MovableGuest
from ballonet.guests.postcopy_arrival import PostcopyArrival
from ballonet.monitor.monitor import Monitor
from ballonet.monitor.outbox import Outbox
from ballonet.monitor.server import MonitorServer
from ballonet.qmp.guest_commands import CAPABILITIES, GUEST_COMMANDS, PARAMETERS

__all__ = ["GuestMonitor", "monitoring_guest"]

T = TypeVar("T")

#: For the guest's loop, which may be at a long piece of work.
_PATIENCE_S: Final = 60.0
_REST_S: Final = 5.0


class GuestMonitor:
    """A `MigratingMachine`."""

    def __init__(
        self, machine: EmbeddedMachine, outbox: Outbox, *, hints_monitor: str | None
    ) -> None:
        """`hints_monitor`: path of the QMP socket of the guest's device, which asks for hints."""
        self._machine, self._outbox, self._hints_monitor = machine, outbox, hints_monitor
        self._movable = MovableGuest(machine)
        self.source: Final = MigrationSource(self._movable, machine.loop, self._changed)
        self.parameters: dict[str, int] = {row.name: row.default for row in PARAMETERS}
        self.capabilities: dict[str, bool] = dict(CAPABILITIES)
        self._arrival: PostcopyArrival | None = None  # of the guest that came here
        self._dirty_rate = DirtyRate(machine.memory.view)
        machine.companions.extend([self.source, self._dirty_rate])

    @property
    def run_state(self) -> str:
        """One of QEMU's RunState."""
        if self._machine.waits_for_state:
            return "inmigrate"
        if self.source.is_handed_over:
            return "postmigrate"
        if self._machine.scheduler.is_frozen:
            return "finish-migrate" if self._movable.is_moving_on else "paused"
        return "running"

    def set_parameters(self, values: Mapping[str, int]) -> None:
        """For the next migration."""
        self.parameters = {**self.parameters, **values}

    def set_capabilities(self, values: Mapping[str, bool]) -> None:
        """The same. Raises: MigrationError, while one is under way."""
        if self.source.is_active:
            raise MigrationError("There's a migration process in progress")
        self.capabilities = {**self.capabilities, **values}

    async def migrate(self, uri: str, *, resume: bool) -> None:
        """Begin. Raises: BallonetError."""
        self._machine.check_movable()
        self._check_whole()
        if self._dirty_rate.is_measuring:
            raise MigrationError("the dirty rate is being measured; try again in a moment")
        if resume:
            await self._do(lambda: self.source.resume({"uri": uri, "parameters": self.parameters}))
            return
        order = {
            "uri": uri,
            "parameters": self.parameters,
            "capabilities": self.capabilities,
            "hints": self._hints_monitor,
        }
        await self._do(lambda: self.source.begin(order))

    async def cancel_migration(self) -> None:
        """Let the guest stay. Raises: MigrationError, if it has left."""
        await self._do(lambda: self.source.wish("cancel"))

    async def start_postcopy(self) -> None:
        """Let the guest go on at the destination. Raises: MigrationError, in QEMU's words."""
        if not self.capabilities["postcopy-ram"]:
            raise MigrationError(
                "Enable postcopy with migrate_set_capability before the start of migration"
            )
        if not self.source.is_active:
            raise MigrationError("Postcopy must be started after migration has been started")
        await self._do(lambda: self.source.wish("postcopy"))

    def migration(self) -> dict[str, object]:
        """What `query-migrate` answers."""
        source, now = self.source, self.source.progress
        if source.status == "none":
            return {} if self._arrival is None else self._arrival.query()
        answer: dict[str, object] = {
            "status": source.status,
            "total-time": now.total_ms,
            "setup-time": 0,
            "ram": now.ram(),
            "x-ballonet-passes": list(source.passes),
            "x-ballonet-steps": list(source.steps),
        }
        if now.downtime_ms is not None:
            answer["downtime"] = now.downtime_ms
        elif now.expected_downtime_ms is not None:
            answer["expected-downtime"] = now.expected_downtime_ms
        if now.throttle_percent:
            answer["cpu-throttle-percentage"] = now.throttle_percent
        if source.status in ("failed", "postcopy-paused") and source.reason is not None:
            answer["error-desc"] = source.reason
        if now.note:
            answer["x-ballonet-note"] = now.note
        return answer

    async def begin_dirty_rate(self, seconds: int) -> None:
        """Watch for so long how much the guest writes. Raises: BallonetError."""
        self._check_whole()
        if self.source.is_active:
            raise MigrationError("There's a migration process in progress")
        await self._do(lambda: self._dirty_rate.begin(seconds))

    def dirty_rate(self) -> dict[str, object]:
        """What `query-dirty-rate` answers."""
        return self._dirty_rate.info()

    async def stop(self) -> None:
        """Let the guest stand still, also if it was to move and does not.

        Raises: BallonetError, if it does not come to rest.
        """
        if self.run_state not in ("running", "finish-migrate"):
            return
        stopped: asyncio.Future[BallonetError | None] = asyncio.get_running_loop().create_future()
        tell = _from_elsewhere(stopped)
        await self._do(lambda: self._movable.pause(tell, _REST_S))
        error = await stopped
        if error is not None:
            raise error
        self._outbox.post("STOP", dict)

    async def cont(self) -> None:
        """Let it go on. Raises: GuestError, if it has moved, or is about to."""
        if self.source.is_handed_over:
            await self._do(self.source.take_back)
            self._outbox.post("RESUME", dict)
        if self.run_state == "finish-migrate":
            raise GuestError("Migration is not finalized yet")
        if self._movable.is_paused:
            await self._do(self._movable.unpause)
            self._outbox.post("RESUME", dict)

    def arrived(self, arrival: PostcopyArrival | None, *, is_paused: bool) -> None:
        """A guest has come, `arrival` tells how its memory does; on the loop's thread.

        One that was paused where it came from waits for `cont`.
        """
        self._arrival = arrival
        if is_paused:
            self._movable.arrive_paused()

    def quit(self) -> None:
        """Switch it off."""
        self._outbox.post("SHUTDOWN", lambda: {"guest": False, "reason": "host-qmp-quit"})
        if self._machine.waits_for_state:  # its thread is not in the loop, but waits for a source
            os.kill(os.getpid(), signal.SIGTERM)
        self._machine.stop()

    def close(self) -> None:
        """End a migration under way; on the loop's thread."""
        self.source.close()
        self._dirty_rate.close()

    def _check_whole(self) -> None:
        """Raises: MigrationError, while the guest's memory follows it here."""
        if self._arrival is not None and not self._arrival.is_whole:
            raise MigrationError("the guest's memory is not all here yet")

    async def _do(self, action: Callable[[], T]) -> T:
        """Do something on the loop's thread. Raises: what it raises; TimeoutError."""
        async with asyncio.timeout(_PATIENCE_S):
            return await asyncio.wrap_future(self._machine.loop.put(action))

    def _changed(self, what: str, data: dict[str, Any]) -> None:
        if not self.capabilities["events"]:
            return
        if what == "status":
            self._outbox.post("MIGRATION", lambda: dict(data))
        elif what == "pass":
            self._outbox.post("MIGRATION_PASS", lambda: {"pass": data["number"]})


def _from_elsewhere(
    future: asyncio.Future[BallonetError | None],
) -> Callable[[BallonetError | None], None]:
    """Fills a future of this thread's loop from another thread."""
    loop = asyncio.get_running_loop()

    def fill(error: BallonetError | None) -> None:
        loop.call_soon_threadsafe(future.set_result, error)

    return fill


@contextmanager
def monitoring_guest(
    machine: EmbeddedMachine, sockets: Sequence[socket.socket], *, hints_monitor: str | None
) -> Iterator[GuestMonitor]:
    """Serve the guest's monitor on sockets that listen, inside the block."""
    outbox = Outbox()
    guest = GuestMonitor(machine, outbox, hints_monitor=hints_monitor)
    monitors = MonitorServer()
    monitors.start()
    monitors.add(Monitor(guest, sockets, outbox, commands=GUEST_COMMANDS))
    try:
        yield guest
    finally:
        guest.close()
        monitors.stop()
