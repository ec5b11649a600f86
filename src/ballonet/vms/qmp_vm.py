"""A virtual machine behind a QMP socket, whoever serves it.

QEMU's own client library speaks the protocol.  What only our own monitor tells is asked for and,
where it is unknown, done without.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ballonet.errors import GuestError, MonitorError

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

__all__ = ["QmpVm", "connected"]

_BALLOON: Final = "child<virtio-balloon"
_INTERVAL: Final = "guest-stats-polling-interval"
Json = dict[str, Any]


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[QmpVm]:
    """A machine, connected inside the block. Raises: MonitorError, saying what to do."""
    try:
        from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError  # noqa: PLC0415
    except ImportError as error:
        raise MonitorError(
            "qemu.qmp is not installed; run: pip install 'ballonet[monitor]'"
        ) from error
    client = QMPClient("ballonet")
    client.logger.disabled = True
    try:
        await client.connect(str(path))
    except ConnectError as error:
        raise MonitorError(f"no monitor answers at {path}: {error.exc}") from error
    try:
        yield QmpVm(client)
    except ExecuteError as error:
        raise MonitorError(f"the monitor refused: {error}") from error
    except QMPError as error:
        raise MonitorError(f"the monitor at {path} is gone: {error}") from error
    finally:
        with suppress(Exception):  # whatever state it is in, it is left
            await client.disconnect()


class QmpVm:
    """What a client asks of a machine's balloon; sizes in bytes left to the guest."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client
        self._balloon_path = ""
        self._has_info: bool | None = None

    async def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever the command returns
        """Any command; underscores in argument names become dashes."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await self._client.execute(command, named or None)

    async def logical_bytes(self) -> int:
        """What the guest has now."""
        return int((await self.execute("query-balloon"))["actual"])

    async def set_logical_bytes(self, size: int) -> None:
        """Ask for another size."""
        await self.execute("balloon", value=size)

    async def ram_bytes(self) -> int | None:
        """All memory of the guest, as far as the monitor tells."""
        info = await self.info()
        if info:
            return int(info["ram"]) if info.get("ram") else None
        with suppress(Exception):  # an older QEMU does not know the command
            summary = await self.execute("query-memory-size-summary")
            return int(summary["base-memory"]) + int(summary.get("plugged-memory", 0))
        return None

    async def info(self) -> Json:
        """What our own monitor tells beyond QEMU's; empty at QEMU's."""
        if self._has_info is None:
            names = {row["name"] for row in await self.execute("query-commands")}
            self._has_info = "x-ballonet-info" in names
        return await self.execute("x-ballonet-info") if self._has_info else {}

    async def has_driver(self) -> bool:
        """A driver uses the balloon, as far as the monitor tells; True if it does not tell."""
        info = await self.info()
        if info:
            return bool(info["running"])
        with suppress(Exception):  # QEMU before 7.2 does not know the command
            path = f"{await self.balloon_path()}/virtio-backend"
            status = await self.execute("x-query-virtio-status", path=path)
            return any("DRIVER_OK" in one for one in status["status"]["statuses"])
        return True

    async def balloon_path(self) -> str:
        """Where the balloon is in the object tree. Raises: GuestError."""
        if not self._balloon_path:
            for parent in ("/machine/peripheral", "/machine/peripheral-anon"):
                for child in await self.execute("qom-list", path=parent):
                    if child["type"].startswith(_BALLOON):
                        self._balloon_path = f"{parent}/{child['name']}"
                        return self._balloon_path
            raise GuestError("the machine has no balloon device")
        return self._balloon_path

    async def guest_stats(self) -> Json:
        """Statistics as QMP has them: `stats` and `last-update`."""
        path = await self.balloon_path()
        reply: Json = await self.execute("qom-get", path=path, property="guest-stats")
        return reply

    async def poll_interval(self) -> int:
        """Seconds between questions; 0: none are asked."""
        path = await self.balloon_path()
        return int(await self.execute("qom-get", path=path, property=_INTERVAL))

    async def set_poll_interval(self, seconds: int) -> None:
        """Ask the guest for statistics so often."""
        path = await self.balloon_path()
        await self.execute("qom-set", path=path, property=_INTERVAL, value=seconds)

    async def human(self, line: str) -> str:
        """One line of HMP, and what it prints."""
        return str(await self.execute("human-monitor-command", command_line=line))
