"""A virtual machine of Cloud Hypervisor's, by its REST API.

What is asked for is the size of the balloon, in bytes; what is told is the guest's memory less it.
It says 204 before anything has happened.  It tells no statistics of the guest.
Units: bytes left to the guest (logical size), seconds.
Source: Cloud Hypervisor vmm/src/api/openapi/cloud-hypervisor.yaml, docs/balloon.md.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from ballonet.errors import GuestError, MonitorError
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.vms.device_info import DeviceInfo
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.host_memory import with_host_memory
from ballonet.vms.machine import Ability, MachineMigration
from ballonet.vms.observation import MachineId, Observation
from ballonet.vms.reply import integer, member, optional
from ballonet.vms.rest_socket import RestSocket
from ballonet.vms.socket_names import name_of_socket

__all__ = ["CloudHypervisorMachine", "connected"]

_KIND: Final = "cloud-hypervisor"
_PREFIX: Final = "/api/v1"
_INFO: Final = "/vm.info"
_NO_STATISTICS: Final = "Cloud Hypervisor tells no statistics of its guests"


@asynccontextmanager
async def connected(
    address: str, who: MachineId | None = None
) -> AsyncIterator[CloudHypervisorMachine]:
    """A machine, which has answered. Raises: MonitorError; GuestError, if it has no balloon."""
    rest = RestSocket(Path(address), _PREFIX)
    who = who or MachineId(_KIND, name_of_socket(address), f"{_KIND}:{address}")
    machine = CloudHypervisorMachine(rest, who)
    await machine.check_balloon()
    yield machine


class CloudHypervisorMachine:
    """A `Machine`."""

    is_ours = False
    size_step_bytes = BALLOON_PAGE_BYTES
    #: Resets are not told.
    resets = 0
    abilities = frozenset({Ability.ACTUAL, Ability.TARGET})

    def __init__(self, rest: RestSocket, who: MachineId) -> None:
        self._rest, self._who = rest, who

    @property
    def who(self) -> MachineId:
        """Its name, its kind, where it is reached; its process, once it was observed."""
        return self._who

    @property
    def migration(self) -> MachineMigration:
        """Raises: GuestError."""
        raise GuestError("ballonet does not move machines of Cloud Hypervisor's")

    async def observe(self) -> Observation:
        """Everything that it tells of one moment, and what the host holds for it."""
        begun_s = time.monotonic()
        info = await self._rest.get(_INFO)
        ram_bytes, balloon_bytes = _ram_bytes(info), _balloon_bytes(info)
        target_bytes = None
        if ram_bytes is not None and balloon_bytes is not None:
            target_bytes = max(0, ram_bytes - balloon_bytes)
        look = Observation(
            self._who,
            begun_s,
            memory_bytes=ram_bytes,
            target_bytes=target_bytes,
            actual_bytes=optional(info, "memory_actual_size", int, _INFO),
            paused=_is_paused(info),
        )
        look = await with_host_memory(look, self._rest.path)
        self._who = look.who
        return look

    async def check_balloon(self) -> None:
        """Raises: GuestError, if it has none."""
        if _balloon_bytes(await self._rest.get(_INFO)) is None:
            raise GuestError("the machine has no balloon device; --balloon gives it one")

    async def ram_bytes(self) -> int | None:
        """All memory of the guest; None, if some was plugged in of which it may not have all."""
        return _ram_bytes(await self._rest.get(_INFO))

    async def logical_bytes(self) -> int:
        """What the guest has now."""
        return max(0, integer(await self._rest.get(_INFO), "memory_actual_size", _INFO))

    async def set_logical_bytes(self, size: int) -> None:
        """Ask for another size; the guest keeps no less. Raises: GuestError, if that is not sure.

        What is sent is the balloon's size: from a wrong idea of all memory too much would be taken.
        """
        ram_bytes = await self.ram_bytes()
        if ram_bytes is None:
            raise GuestError(
                "memory was plugged in by virtio-mem, and how much of it the guest has is not told:"
                " how big its balloon would have to be is not known"
            )
        balloon_bytes = max(0, ram_bytes - size) // BALLOON_PAGE_BYTES * BALLOON_PAGE_BYTES
        await self._rest.put("/vm.resize", {"desired_balloon": balloon_bytes})

    async def is_paused(self) -> bool:
        """Its processors stand still."""
        return _is_paused(await self._rest.get(_INFO))

    async def has_driver(self) -> bool | None:
        """It is not told."""
        return None

    async def deflates_on_oom(self) -> bool:
        """The guest's kernel may take memory out of the balloon, and counts it as its own."""
        config = member(await self._rest.get(_INFO), "config", dict, _INFO)
        balloon = optional(config, "balloon", dict, _INFO)
        return balloon is not None and bool(optional(balloon, "deflate_on_oom", bool, _INFO))

    async def hints_free_pages(self) -> bool:
        """It has no such feature."""
        return False

    async def guest_stats(self) -> GuestStats:
        """Raises: GuestError."""
        raise GuestError(_NO_STATISTICS)

    async def poll_interval(self) -> int:
        """Raises: GuestError."""
        raise GuestError(_NO_STATISTICS)

    async def set_poll_interval(self, seconds: int) -> None:  # noqa: ARG002 - nobody polls
        """Raises: GuestError."""
        raise GuestError(_NO_STATISTICS)

    def detour_interval(self, interval_s: int) -> int:
        """Nothing is asked."""
        return interval_s

    async def device_info(self) -> DeviceInfo | None:
        """Nothing: it is not ours."""
        return None


def _is_paused(info: object) -> bool:
    return member(info, "state", str, _INFO) != "Running"


def _balloon_bytes(info: object) -> int | None:
    """The target, in the balloon; None: there is no balloon."""
    balloon = optional(member(info, "config", dict, _INFO), "balloon", dict, _INFO)
    return None if balloon is None else max(0, integer(balloon, "size", _INFO))


def _ram_bytes(info: object) -> int | None:
    """What it was started with and what was plugged in; None, if the guest may not have all."""
    memory = member(member(info, "config", dict, _INFO), "memory", dict, _INFO)
    zones = optional(memory, "zones", list, _INFO) or []
    ram_bytes = 0
    for part in [memory, *zones]:
        plugged_bytes = _plugged_bytes(part)
        if plugged_bytes and optional(memory, "hotplug_method", str, _INFO) == "VirtioMem":
            return None
        ram_bytes += integer(part, "size", _INFO) + plugged_bytes
    if ram_bytes < 0:
        raise MonitorError(f"the VMM answers {_INFO} with a negative size of memory")
    return ram_bytes


def _plugged_bytes(part: Mapping[str, Any]) -> int:
    size = optional(part, "hotplugged_size", int, _INFO)
    return 0 if size is None else integer(part, "hotplugged_size", _INFO)
