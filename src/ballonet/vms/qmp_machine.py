"""A virtual machine behind a QMP socket, whoever serves it.

What may be sent is `qmp_monitor`'s business; here every reply is checked.
Units: bytes left to the guest (logical size), seconds.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from ballonet.errors import CommandRefusedError, GuestError
from ballonet.virtio.features import Feature
from ballonet.vms import qmp_monitor
from ballonet.vms.device_info import DeviceInfo, parse_device_info
from ballonet.vms.figures import with_device, with_statistics
from ballonet.vms.foreign_commands import (
    BALLOON_PARENTS,
    DEFLATES_ON_OOM,
    FREE_PAGE_HINT,
    GUEST_STATS,
    POLL_INTERVAL,
)
from ballonet.vms.guest_stats import GuestStats, parse_guest_stats
from ballonet.vms.host_memory import with_host_memory
from ballonet.vms.machine import Ability
from ballonet.vms.observation import MachineId, Observation
from ballonet.vms.qmp_migration import QmpMigration
from ballonet.vms.qmp_monitor import QmpMonitor
from ballonet.vms.reply import integer, member
from ballonet.vms.socket_names import name_of_socket

__all__ = ["QmpMachine", "connected"]

_BALLOON: Final = "child<virtio-balloon"
#: Ours have statistics where virtio's has them, whatever kind they are.
_OUR_BALLOONS: Final = (_BALLOON, "child<hv-balloon", "child<x-ballonet-vmware-balloon")
_INFO: Final = "x-ballonet-info"
_QEMU_TELLS: Final = frozenset({Ability.ACTUAL, Ability.STATISTICS, Ability.AGE})
_OURS_TELLS: Final = _QEMU_TELLS | {Ability.TARGET, Ability.DRIVER}


@asynccontextmanager
async def connected(address: str, who: MachineId | None = None) -> AsyncIterator[QmpMachine]:
    """A machine, connected inside the block. Raises: MonitorError, saying what to do."""
    path = Path(address)
    async with qmp_monitor.connected(path) as monitor:
        kind = "ballonet" if monitor.is_ours else "qemu"
        yield QmpMachine(monitor, path, who or MachineId(kind, name_of_socket(address), address))


class QmpMachine:
    """A `Machine`."""

    size_step_bytes = 1

    def __init__(self, monitor: QmpMonitor, path: Path, who: MachineId) -> None:
        self._monitor, self._path, self._who = monitor, path, who
        self._balloon_path = ""
        #: RESET events so far: what was known of the guest before one is of another kernel.
        self.resets = 0
        self._migration = QmpMigration(monitor)
        monitor.observe(self._take_event)

    @property
    def who(self) -> MachineId:
        """Its name, its kind, where it is reached; its process, once it was observed."""
        return self._who

    @property
    def abilities(self) -> frozenset[Ability]:
        """QEMU tells neither target nor driver by a stable command."""
        return _OURS_TELLS if self.is_ours else _QEMU_TELLS

    async def observe(self) -> Observation:
        """Everything that it tells of one moment, and what the host holds for it."""
        look = Observation(self._who, time.monotonic(), paused=await self.is_paused())
        info = await self.device_info()
        if info is None:
            look = replace(look, memory_bytes=await self.ram_bytes())
        else:
            look = with_device(look, info)
            if info.ram_bytes is None:
                return look  # nothing can be asked of a guest that is not there
        if look.actual_bytes is None:
            try:
                look = replace(look, actual_bytes=await self.logical_bytes())
            except CommandRefusedError as error:
                look = replace(look, problem=str(error))
        with suppress(CommandRefusedError, GuestError):  # no balloon, or one of another kind
            sample, interval_s = await self.guest_stats(), await self.poll_interval()
            driver = sample.was_heard(time.time(), interval_s) if info is None else info.has_driver
            look = with_statistics(replace(look, has_driver=driver), sample, interval_s)
        if info is None:
            look = await with_host_memory(look, self._path)
            self._who = look.who
        return look

    @property
    def migration(self) -> QmpMigration:
        """Its way to another place."""
        return self._migration

    @property
    def is_ours(self) -> bool:
        """The monitor says that it is ballonet's."""
        return self._monitor.is_ours

    async def logical_bytes(self) -> int:
        """What the guest has now."""
        return max(
            0, integer(await self._monitor.execute("query-balloon"), "actual", "query-balloon")
        )

    async def set_logical_bytes(self, size: int) -> None:
        """Ask for another size."""
        await self._monitor.execute("balloon", value=size)

    async def ram_bytes(self) -> int | None:
        """All memory of the guest, as far as the monitor tells."""
        if self.is_ours:
            info = await self.device_info()
            return info.ram_bytes if info else None
        with suppress(CommandRefusedError):  # an older QEMU does not know the command
            reply = await self._monitor.execute("query-memory-size-summary")
            base = integer(reply, "base-memory", "query-memory-size-summary")
            plugged = reply.get("plugged-memory") and integer(
                reply, "plugged-memory", "query-memory-size-summary"
            )
            return base + int(plugged or 0)
        return None

    async def is_paused(self) -> bool:
        """The VM's processors stand still."""
        status = await self._monitor.execute("query-status")
        return not member(status, "running", bool, "query-status")

    async def device_info(self) -> DeviceInfo | None:
        """What our own monitor tells beyond QEMU's; None of somebody else's, or without answer."""
        if _INFO not in await self._monitor.own_commands():
            return None
        reply = await self._monitor.execute(_INFO)
        return parse_device_info(reply) if reply else None

    async def has_driver(self) -> bool | None:
        """A driver uses the balloon; None: nobody can tell.

        QEMU tells it by no stable command.  A driver that has sent statistics a moment ago is
        there; one that was not asked may be there.
        """
        info = await self.device_info()
        if info is not None:
            return info.has_driver
        return (await self.guest_stats()).was_heard(time.time(), await self.poll_interval())

    async def deflates_on_oom(self) -> bool:
        """The guest's kernel may take memory out of the balloon, and counts it as its own."""
        info = await self.device_info()
        if info is not None:
            return Feature.DEFLATE_ON_OOM.name in info.features
        return await self._balloon_property(DEFLATES_ON_OOM)

    async def hints_free_pages(self) -> bool:
        """The device offers free page hints, which a migration leaves out."""
        info = await self.device_info()
        if info is not None:
            return Feature.FREE_PAGE_HINT.name in info.features
        return await self._balloon_property(FREE_PAGE_HINT)

    async def balloon_path(self) -> str:
        """Where the balloon is in the object tree. Raises: GuestError."""
        if not self._balloon_path:
            wanted = _OUR_BALLOONS if self.is_ours else (_BALLOON,)
            for parent in BALLOON_PARENTS:
                children = await self._monitor.execute("qom-list", path=parent)
                for child in children if isinstance(children, list) else []:
                    if member(child, "type", str, "qom-list").startswith(wanted):
                        name = member(child, "name", str, "qom-list")
                        self._balloon_path = f"{parent}/{name}"
                        return self._balloon_path
            raise GuestError("the machine has no virtio balloon device")
        return self._balloon_path

    async def guest_stats(self) -> GuestStats:
        """The newest statistics, however old."""
        path = await self.balloon_path()
        return parse_guest_stats(
            await self._monitor.execute("qom-get", path=path, property=GUEST_STATS)
        )

    async def poll_interval(self) -> int:
        """Seconds between questions; 0: none are asked."""
        path = await self.balloon_path()
        reply = await self._monitor.execute("qom-get", path=path, property=POLL_INTERVAL)
        return integer({"interval": reply}, "interval", f"qom-get {POLL_INTERVAL}")

    async def set_poll_interval(self, seconds: int) -> None:
        """Ask the guest for statistics so often; at once, if it was not asked before."""
        path = await self.balloon_path()
        await self._monitor.execute("qom-set", path=path, property=POLL_INTERVAL, value=seconds)

    def detour_interval(self, interval_s: int) -> int:  # noqa: ARG002 - of any other
        """Polling that begins asks at once."""
        return 0

    async def _balloon_property(self, name: str) -> bool:
        """One that is on or off; off, if the device has none of that name. Raises: GuestError."""
        path = await self.balloon_path()
        with suppress(CommandRefusedError):
            return bool(await self._monitor.execute("qom-get", path=path, property=name))
        return False

    def _take_event(self, event: Mapping[str, object]) -> None:
        self.resets += event.get("event") == "RESET"
