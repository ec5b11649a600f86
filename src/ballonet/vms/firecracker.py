"""A virtual machine of Firecracker's, by its REST API.

Its sizes are what is *inside* the balloon, in whole MiB: the guest's size is its memory less that,
and what is asked for is rounded so that the guest keeps no less.  It says 204 before anything has
happened.  Whether there are statistics was decided before the boot, and only they tell how big the
balloon is.  They have no age: a sample is fresh only if it was seen to change, and whatever a guest
does not send any more keeps its old value.
Units: bytes left to the guest (logical size), seconds.
Source: Firecracker src/firecracker/swagger/firecracker.yaml, docs/ballooning.md;
devices/virtio/balloon/device.rs asks the guest at once when the interval changes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

from ballonet.errors import CommandRefusedError, GuestError
from ballonet.units import pages_to_bytes
from ballonet.virtio.stats import STATS
from ballonet.vms.device_info import DeviceInfo
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.host_memory import with_host_memory
from ballonet.vms.machine import Ability, MachineMigration
from ballonet.vms.observation import MachineId, Observation, aged_statistics
from ballonet.vms.reply import integer, member, optional
from ballonet.vms.rest_socket import RestSocket
from ballonet.vms.socket_names import name_of_socket

__all__ = ["FirecrackerMachine", "connected"]

_MIB: Final = 1 << 20
_KIND: Final = "firecracker"
#: Where its names are not QEMU's less the `stat-`.
_KEYS: Final = {
    "htlb_pgalloc": "hugetlb_allocations",
    "htlb_pgfail": "hugetlb_failures",
    "oom_kill": "oom_kill",
    "alloc_stall": "alloc_stall",
    "async_scan": "async_scan",
    "direct_scan": "direct_scan",
    "async_reclaim": "async_reclaim",
    "direct_reclaim": "direct_reclaim",
}
_BALLOON, _STATISTICS, _CONFIG = "/balloon", "/balloon/statistics", "/machine-config"
_INTERVAL: Final = "stats_polling_interval_s"


@asynccontextmanager
async def connected(
    address: str, who: MachineId | None = None
) -> AsyncIterator[FirecrackerMachine]:
    """A machine, which has answered. Raises: MonitorError; GuestError, if it has no balloon."""
    rest = RestSocket(Path(address))
    name = member(await rest.get("/"), "id", str, "GET /")
    who = who or MachineId(_KIND, name or name_of_socket(address), f"{_KIND}:{address}")
    yield FirecrackerMachine(rest, who, await _balloon(rest))


async def _balloon(rest: RestSocket) -> Any:  # noqa: ANN401 - JSON
    """Configuration of the balloon. Raises: GuestError, if there is none."""
    try:
        return await rest.get(_BALLOON)
    except CommandRefusedError as error:
        raise GuestError(f"the machine has no balloon device: {error.desc}") from error


class FirecrackerMachine:
    """A `Machine`."""

    is_ours = False
    size_step_bytes = _MIB
    #: Firecracker ends when its guest is reset.
    resets = 0

    def __init__(self, rest: RestSocket, who: MachineId, balloon: object) -> None:
        self._rest, self._who = rest, who
        #: Cannot change after the boot.
        self._has_stats = integer(balloon, _INTERVAL, _BALLOON) > 0
        self._values: dict[str, int] | None = None  # the newest that were seen
        self._changed_wall_s: int | None = None  # when they were seen to change

    @property
    def who(self) -> MachineId:
        """Its name, its kind, where it is reached; its process, once it was observed."""
        return self._who

    @property
    def abilities(self) -> frozenset[Ability]:
        """All by its statistics, but the target; and age and driver never."""
        told = {Ability.ACTUAL, Ability.STATISTICS} if self._has_stats else set()
        return frozenset({Ability.TARGET, *told})

    @property
    def migration(self) -> MachineMigration:
        """Raises: GuestError."""
        raise GuestError("a machine of Firecracker's cannot be moved by its API")

    async def observe(self) -> Observation:
        """Everything that it tells of one moment, and what the host holds for it."""
        begun_s = time.monotonic()
        ram_bytes, balloon = await self.ram_bytes(), await _balloon(self._rest)
        look = Observation(
            self._who,
            begun_s,
            memory_bytes=ram_bytes,
            target_bytes=max(0, ram_bytes - integer(balloon, "amount_mib", _BALLOON) * _MIB),
            paused=await self.is_paused(),
            poll_interval_s=integer(balloon, _INTERVAL, _BALLOON),
        )
        if self._has_stats:
            reply = await self._rest.get(_STATISTICS)
            sample = self._note(reply)
            look = replace(
                look,
                actual_bytes=max(0, ram_bytes - _actual_bytes(reply)),
                statistics=aged_statistics(sample, time.time()),
                stats_last_update_s=sample.last_update_s,
                has_driver=await self.has_driver(),
            )
        look = await with_host_memory(look, self._rest.path)
        self._who = look.who
        return look

    async def ram_bytes(self) -> int:
        """What it was started with, and what was plugged in since."""
        config = await self._rest.get(_CONFIG)
        ram_mib = integer(config, "mem_size_mib", _CONFIG)
        with suppress(CommandRefusedError):  # there is no such device, or an older release
            plugged = await self._rest.get("/hotplug/memory")
            ram_mib += integer(plugged, "plugged_size_mib", "/hotplug/memory")
        return ram_mib * _MIB

    async def logical_bytes(self) -> int:
        """What the guest has now. Raises: GuestError, without statistics."""
        self._check_stats()
        return max(0, await self.ram_bytes() - _actual_bytes(await self._rest.get(_STATISTICS)))

    async def set_logical_bytes(self, size: int) -> None:
        """Ask for another size; the guest keeps no less than that."""
        amount_mib = max(0, await self.ram_bytes() - size) // _MIB
        await self._rest.patch(_BALLOON, {"amount_mib": amount_mib})

    async def is_paused(self) -> bool:
        """Its processors stand still."""
        return member(await self._rest.get("/"), "state", str, "GET /") != "Running"

    async def has_driver(self) -> bool | None:
        """A sample that is seen to change shows one; that none does shows nothing."""
        return True if self._changed_wall_s is not None else None

    async def deflates_on_oom(self) -> bool:
        """The guest's kernel may take memory out of the balloon, and counts it as its own."""
        return bool(optional(await _balloon(self._rest), "deflate_on_oom", bool, _BALLOON))

    async def hints_free_pages(self) -> bool:
        """Whatever it hints, no migration leaves it out."""
        return False

    async def guest_stats(self) -> GuestStats:
        """The newest statistics, however old. Raises: GuestError, if there are none."""
        self._check_stats()
        return self._note(await self._rest.get(_STATISTICS))

    async def poll_interval(self) -> int:
        """Seconds between questions."""
        return integer(await _balloon(self._rest), _INTERVAL, _BALLOON)

    async def set_poll_interval(self, seconds: int) -> None:
        """Ask the guest so often; a change asks it at once. Raises: GuestError."""
        self._check_stats()
        await self._rest.patch(_STATISTICS, {_INTERVAL: seconds})

    def detour_interval(self, interval_s: int) -> int:
        """It cannot be switched off; another interval is enough."""
        return interval_s + 1 if interval_s < (1 << 16) - 1 else interval_s - 1

    async def device_info(self) -> DeviceInfo | None:
        """Nothing: it is not ours."""
        return None

    def _note(self, reply: object) -> GuestStats:
        """A sample; fresh, if it is another one than the newest that was seen."""
        values = _values(reply)
        if self._values is not None and values != self._values:
            self._changed_wall_s = int(time.time())
        self._values = values
        return GuestStats(self._changed_wall_s, values)

    def _check_stats(self) -> None:
        if not self._has_stats:
            _no_statistics()


def _no_statistics() -> NoReturn:
    """Raises: GuestError."""
    raise GuestError(
        "the machine was started without statistics of its balloon (stats_polling_interval_s),"
        " which alone tell what the guest has"
    )


def _actual_bytes(reply: object) -> int:
    """In the balloon, as the driver has said."""
    return pages_to_bytes(integer(reply, "actual_pages", _STATISTICS))


def _values(reply: object) -> dict[str, int]:
    found = {}
    for row in STATS:
        key = _KEYS.get(row.name) or row.qemu_key.removeprefix("stat-").replace("-", "_")
        if optional(reply, key, int, _STATISTICS) is not None:
            found[row.name] = max(0, integer(reply, key, _STATISTICS))
    return found
