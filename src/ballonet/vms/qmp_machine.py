"""A virtual machine behind a QMP socket, whoever serves it.

QEMU's own client library speaks the protocol.  A monitor that is not ours is sent what
`foreign_commands` lists and nothing else; what only ours tells is asked only of ours.  Every wait
is bounded, and every reply is checked.
Units: bytes left to the guest (logical size), seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ballonet.errors import CommandRefusedError, GuestError, MonitorError, UsageError
from ballonet.vms.device_info import DeviceInfo, parse_device_info
from ballonet.vms.foreign_commands import (
    BALLOON_PARENTS,
    DEFLATES_ON_OOM,
    GUEST_STATS,
    POLL_INTERVAL,
    may_be_sent,
)
from ballonet.vms.guest_stats import GuestStats, parse_guest_stats
from ballonet.vms.holder import holder_of
from ballonet.vms.reply import integer, member, printable

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

__all__ = ["QmpMachine", "connected"]

_BALLOON: Final = "child<virtio-balloon"
_INFO: Final = "x-ballonet-info"
#: QEMU greets as soon as it serves a client; one that is served already is not greeted.
_GREETING_S: Final = 3.0
#: For a reply; QEMU answers what is asked here at once, unless its machine is very busy.
_REPLY_S: Final = 10.0
#: For whatever a person typed, and for what only ours does: a host waits 60 s for a new guest.
_LONG_REPLY_S: Final = 90.0
_CLOSE_S: Final = 1.0
#: Statistics so young show a driver that is there now, if nobody asks for them more often.
_YOUNG_S: Final = 10.0


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[QmpMachine]:
    """A machine, connected inside the block. Raises: MonitorError, saying what to do."""
    from qemu.qmp import QMPClient  # noqa: PLC0415 - whoever needs no monitor does without

    client = QMPClient("ballonet")
    client.logger.disabled = True
    vm = QmpMachine(client, path)
    try:
        await _connect(client, path)
        yield vm
    finally:
        # Whatever state it is in, it is left, also if the server does not read any more.
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_S):
                await client.disconnect()


async def _connect(client: QMPClient, path: Path) -> None:
    """Wait for the greeting and answer it. Raises: MonitorError."""
    from qemu.qmp import ConnectError  # noqa: PLC0415

    try:
        async with asyncio.timeout(_GREETING_S):
            await client.connect(str(path))
    except TimeoutError:
        holder = holder_of(path)
        reason = f"{holder} is connected to it" if holder else "another client may be connected"
        raise MonitorError(
            f"the monitor at {path} has not greeted within {_GREETING_S:.0f} s: it serves one"
            f" client at a time, and {reason}"
        ) from None
    except ConnectError as error:
        raise MonitorError(f"no monitor answers at {path}: {_reason(error.exc)}") from error


def _reason(error: Exception) -> str:
    """Why a connection came to nothing."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, EOFError):
        return "it hangs up"
    return "what it says is not QMP"


class QmpMachine:
    """A `Machine`; and what a person types to its monitor."""

    def __init__(self, client: QMPClient, path: Path) -> None:
        self._client, self._path = client, path
        self._balloon_path = ""
        self._ours: frozenset[str] | None = None
        #: RESET events so far: what was known of the guest before one is of another kernel.
        self.resets = 0
        # The library keeps every event that is not refused here, for ever.
        client.events.event_filter = self._take_event

    @property
    def is_ours(self) -> bool:
        """The monitor says that it is ballonet's."""
        greeting = self._client.greeting
        package = greeting.QMP.version.get("package") if greeting else None
        return isinstance(package, str) and "ballonet" in package

    async def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever the command returns
        """A command that cannot hurt the VM; underscores in argument names become dashes.

        Raises: MonitorError, CommandRefusedError; UsageError for any other command.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        if may_be_sent(command, named):
            return await self._send(command, named, _REPLY_S)
        if command not in await self._own_commands():
            raise UsageError(f"{command} may not be sent to {self._path}")
        return await self._send(command, named, _LONG_REPLY_S)

    async def execute_typed(self, command: str, arguments: Mapping[str, object]) -> Any:  # noqa: ANN401
        """A command that a person typed, whatever it does. Raises: MonitorError."""
        return await self._send(command, arguments, _LONG_REPLY_S)

    async def human(self, line: str) -> str:
        """One line of HMP that a person typed, and what it prints. Raises: MonitorError."""
        text = await self.execute_typed("human-monitor-command", {"command-line": line})
        return printable(str(text).replace("\r\n", "\n"))

    async def logical_bytes(self) -> int:
        """What the guest has now."""
        return max(0, integer(await self.execute("query-balloon"), "actual", "query-balloon"))

    async def set_logical_bytes(self, size: int) -> None:
        """Ask for another size."""
        await self.execute("balloon", value=size)

    async def ram_bytes(self) -> int | None:
        """All memory of the guest, as far as the monitor tells."""
        if self.is_ours:
            info = await self.device_info()
            return info.ram_bytes if info else None
        with suppress(CommandRefusedError):  # an older QEMU does not know the command
            reply = await self.execute("query-memory-size-summary")
            base = integer(reply, "base-memory", "query-memory-size-summary")
            plugged = reply.get("plugged-memory") and integer(
                reply, "plugged-memory", "query-memory-size-summary"
            )
            return base + int(plugged or 0)
        return None

    async def is_paused(self) -> bool:
        """The VM's processors stand still."""
        status = await self.execute("query-status")
        return not member(status, "running", bool, "query-status")

    async def device_info(self) -> DeviceInfo | None:
        """What our own monitor tells beyond QEMU's; None of somebody else's, or without answer."""
        if _INFO not in await self._own_commands():
            return None
        reply = await self.execute(_INFO)
        return parse_device_info(reply) if reply else None

    async def has_driver(self) -> bool | None:
        """A driver uses the balloon; None: nobody can tell.

        QEMU tells it by no stable command.  A driver that has sent statistics a moment ago is
        there; one that was not asked may be there.
        """
        info = await self.device_info()
        if info is not None:
            return info.has_driver
        last_update_s = (await self.guest_stats()).last_update_s
        interval_s = await self.poll_interval()
        young_s = max(_YOUNG_S, 3.0 * interval_s)
        if last_update_s is not None and abs(time.time() - last_update_s) <= young_s:
            return True
        return None

    async def deflates_on_oom(self) -> bool:
        """The guest's kernel may take memory out of the balloon, and counts it as its own."""
        info = await self.device_info()
        if info is not None:
            return "deflate-on-oom" in info.features
        path = await self.balloon_path()
        with suppress(CommandRefusedError):
            return bool(await self.execute("qom-get", path=path, property=DEFLATES_ON_OOM))
        return False

    async def balloon_path(self) -> str:
        """Where the balloon is in the object tree. Raises: GuestError."""
        if not self._balloon_path:
            for parent in BALLOON_PARENTS:
                children = await self.execute("qom-list", path=parent)
                for child in children if isinstance(children, list) else []:
                    if member(child, "type", str, "qom-list").startswith(_BALLOON):
                        name = member(child, "name", str, "qom-list")
                        self._balloon_path = f"{parent}/{name}"
                        return self._balloon_path
            raise GuestError("the machine has no virtio balloon device")
        return self._balloon_path

    async def guest_stats(self) -> GuestStats:
        """The newest statistics, however old."""
        path = await self.balloon_path()
        return parse_guest_stats(await self.execute("qom-get", path=path, property=GUEST_STATS))

    async def poll_interval(self) -> int:
        """Seconds between questions; 0: none are asked."""
        path = await self.balloon_path()
        reply = await self.execute("qom-get", path=path, property=POLL_INTERVAL)
        return integer({"interval": reply}, "interval", f"qom-get {POLL_INTERVAL}")

    async def set_poll_interval(self, seconds: int) -> None:
        """Ask the guest for statistics so often; at once, if it was not asked before."""
        path = await self.balloon_path()
        await self.execute("qom-set", path=path, property=POLL_INTERVAL, value=seconds)

    async def _own_commands(self) -> frozenset[str]:
        """Those that only our own monitor knows: none, unless it says so twice."""
        if not self.is_ours:
            return frozenset()
        if self._ours is None:
            rows = await self._send("query-commands", {}, _REPLY_S)
            names = (
                member(row, "name", str, "query-commands")
                for row in (rows if isinstance(rows, list) else [])
            )
            self._ours = frozenset(name for name in names if name.startswith("x-ballonet-"))
        return self._ours

    async def _send(self, command: str, arguments: Mapping[str, object], timeout_s: float) -> Any:  # noqa: ANN401
        from qemu.qmp import ExecuteError, QMPError  # noqa: PLC0415

        try:
            async with asyncio.timeout(timeout_s):
                return await self._client.execute(command, arguments or None)
        except TimeoutError:
            raise MonitorError(
                f"the monitor at {self._path} has not answered {command} within {timeout_s:.0f} s"
            ) from None
        except ExecuteError as error:
            raise CommandRefusedError(
                command, printable(error.error_class), printable(str(error))
            ) from error
        except QMPError as error:
            raise MonitorError(f"the monitor at {self._path} has gone away") from error

    def _take_event(self, event: Mapping[str, object]) -> bool:
        """Note what an event tells; never have it kept."""
        self.resets += event.get("event") == "RESET"
        return False
