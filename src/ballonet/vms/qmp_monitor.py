"""A QMP socket, whoever serves it: connected, spoken to, listened to.

QEMU's own client library speaks the protocol.  A monitor that is not ours is sent what
`foreign_commands` lists and nothing else; what only ours tells is asked only of ours.  Every wait
is bounded.
Units: seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ballonet.errors import CommandRefusedError, MonitorError, UsageError
from ballonet.vms.foreign_commands import may_be_sent, may_be_sent_to_migrate
from ballonet.vms.in_thread import in_thread
from ballonet.vms.reply import member, printable
from ballonet.vms.unix_sockets import holder_of

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

__all__ = ["QmpMonitor", "connected"]

T = TypeVar("T")

#: QEMU greets as soon as it serves a client; one that is served already is not greeted.
_GREETING_S: Final = 3.0
#: For a reply; QEMU answers what is asked here at once, unless its machine is very busy.
_REPLY_S: Final = 10.0
#: For whatever a person typed, and for what only ours does: a host waits 60 s for a new guest.
_LONG_REPLY_S: Final = 90.0
_CLOSE_S: Final = 1.0

Observer = Callable[[Mapping[str, object]], None]


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[QmpMonitor]:
    """A monitor, connected inside the block. Raises: MonitorError, saying what to do."""
    client = _client()
    monitor = QmpMonitor(client, path)
    try:
        await _connect(client, path)
        yield monitor
    finally:
        # Whatever state it is in, it is left, also if the server does not read any more.
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_S):
                await client.disconnect()


def _client() -> QMPClient:
    from qemu.qmp import QMPClient  # noqa: PLC0415 - whoever needs no monitor does without

    class Client(QMPClient):
        """By the library's hooks for messages, which else lays each out for a log nobody reads."""

        def _cb_inbound(self, msg: T) -> T:
            return msg

        def _cb_outbound(self, msg: T) -> T:
            return msg

    client = Client("ballonet")
    client.logger.disabled = True
    return client


async def _connect(client: QMPClient, path: Path) -> None:
    """Wait for the greeting and answer it. Raises: MonitorError."""
    from qemu.qmp import ConnectError  # noqa: PLC0415

    try:
        async with asyncio.timeout(_GREETING_S):
            await client.connect(str(path))
    except TimeoutError:
        holder = await in_thread(lambda: holder_of(path))
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


class QmpMonitor:
    """Commands and their replies, and events."""

    def __init__(self, client: QMPClient, path: Path) -> None:
        self._client, self._path = client, path
        self._ours: frozenset[str] | None = None
        self._observers: list[Observer] = []
        # The library keeps every event that is not refused here, for ever.
        client.events.event_filter = self._take_event

    @property
    def is_ours(self) -> bool:
        """The monitor says that it is ballonet's."""
        greeting = self._client.greeting
        package = greeting.QMP.version.get("package") if greeting else None
        return isinstance(package, str) and "ballonet" in package

    def observe(self, observer: Observer) -> None:
        """Have every event told as it comes; it is somebody else's word."""
        self._observers.append(observer)

    async def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever the command returns
        """A command that cannot hurt the VM; underscores in argument names become dashes.

        Raises: MonitorError, CommandRefusedError; UsageError for any other command.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        if may_be_sent(command, named):
            return await self._send(command, named, _REPLY_S)
        if command not in await self.own_commands():
            raise UsageError(f"{command} may not be sent to {self._path}")
        return await self._send(command, named, _LONG_REPLY_S)

    async def execute_to_migrate(self, command: str, arguments: Mapping[str, object]) -> Any:  # noqa: ANN401
        """A command that a migration consists of, for whoever asked for one.

        Raises: MonitorError, CommandRefusedError; UsageError for any other command.
        """
        if not may_be_sent_to_migrate(command, arguments):
            raise UsageError(f"{command} may not be sent to {self._path}")
        return await self._send(command, arguments, _REPLY_S)

    async def execute_typed(self, command: str, arguments: Mapping[str, object]) -> Any:  # noqa: ANN401
        """A command that a person typed, whatever it does. Raises: MonitorError."""
        return await self._send(command, arguments, _LONG_REPLY_S)

    async def human(self, line: str) -> str:
        """One line of HMP that a person typed, and what it prints. Raises: MonitorError."""
        text = await self.execute_typed("human-monitor-command", {"command-line": line})
        return printable(str(text).replace("\r\n", "\n"))

    async def own_commands(self) -> frozenset[str]:
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
        """Tell of an event; never have it kept."""
        for observer in self._observers:
            observer(event)
        return False
