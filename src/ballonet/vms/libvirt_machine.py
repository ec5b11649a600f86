"""A domain of libvirt's, by libvirt-python; all domains of a connection in one question.

Units: bytes left to the guest (logical size), seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from ballonet.errors import CommandRefusedError, GuestError, MonitorError
from ballonet.vms.device_info import DeviceInfo
from ballonet.vms.figures import with_statistics
from ballonet.vms.find_libvirt import KIND, domains_at
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.host_memory import with_host_memory
from ballonet.vms.libvirt_api import AFFECT_LIVE, Connection, Domain
from ballonet.vms.libvirt_calls import LibvirtCalls, missing_if_gone
from ballonet.vms.libvirt_domain import (
    NO_BALLOON,
    BalloonElement,
    is_stopped,
    kib_of,
    parse_actual,
    parse_balloon,
    parse_statistics,
)
from ballonet.vms.libvirt_rows import Row, all_rows, exact_row, job_of
from ballonet.vms.machine import Ability, MachineMigration
from ballonet.vms.observation import MachineId, Observation
from ballonet.vms.processes import processes
from ballonet.vms.reply import printable

__all__ = ["LibvirtMachine", "connected", "observe_all"]

T = TypeVar("T")

_KIB: Final = 1 << 10


@asynccontextmanager
async def connected(address: str, who: MachineId | None = None) -> AsyncIterator[LibvirtMachine]:
    """The domain of `URI#NAME`, connected inside the block. Raises: MonitorError."""
    uri, _, name = address.partition("#")
    async with LibvirtCalls(uri) as libvirt:
        number, balloon = await libvirt.call(lambda connection: _find(connection, name))
        yield LibvirtMachine(libvirt, who or _id(uri, name), number, balloon)


async def observe_all(uri: str) -> dict[str, Observation]:
    """Every domain of a connection that runs, by name. Raises: MonitorError."""
    begun_s = time.monotonic()
    rows, ids = await all_rows(uri)
    looks = []
    for row in rows:
        who = ids.get(row.name) or MachineId(KIND, printable(row.name), f"{KIND}:{uri}#{row.name}")
        looks.append(_observation(row, who, begun_s))
    measured = await asyncio.gather(*(with_host_memory(look, Path()) for look in looks))
    return {look.who.name: look for look in measured}


class LibvirtMachine:
    """A `Machine`."""

    is_ours = False
    size_step_bytes = _KIB
    #: libvirt tells of none by itself.
    resets = 0

    def __init__(
        self, libvirt: LibvirtCalls, who: MachineId, number: int, balloon: BalloonElement
    ) -> None:
        """`number`: of this run of the domain."""
        self._libvirt, self._who = libvirt, who
        self._number, self._has_balloon = number, balloon.is_there
        self._deflates_on_oom = balloon.deflates_on_oom

    @property
    def who(self) -> MachineId:
        """Its name, its kind, where it is reached, its process."""
        return self._who

    @property
    def abilities(self) -> frozenset[Ability]:
        """Neither target nor driver, as QEMU."""
        return frozenset({Ability.ACTUAL, Ability.STATISTICS, Ability.AGE})

    @property
    def migration(self) -> MachineMigration:
        """Raises: GuestError."""
        raise GuestError("a domain is moved by libvirt: virsh migrate --live")

    async def observe(self) -> Observation:
        """Everything that it tells of one moment, and what the host holds for it."""
        begun_s = time.monotonic()
        row = await self._ask(exact_row)
        look = _observation(row, self._who, begun_s)
        return await with_host_memory(look, Path())

    async def ram_bytes(self) -> int:
        """All memory of the guest."""
        return (await self._ask(exact_row)).record.memory_bytes

    async def logical_bytes(self) -> int:
        """What the guest has now. Raises: GuestError, if there is no balloon."""
        self._check_balloon()
        size = parse_actual(await self._ask(lambda _, domain: domain.memoryStats()))
        if size is None:
            raise GuestError("libvirt does not tell what the guest has")
        return size

    async def set_logical_bytes(self, size: int) -> None:
        """Ask for another size. Raises: GuestError, if there is no balloon."""
        self._check_balloon()
        size_kib = kib_of(min(size, await self.ram_bytes()))
        await self._change("setmem", lambda domain: domain.setMemoryFlags(size_kib, AFFECT_LIVE))

    async def is_paused(self) -> bool:
        """Its processors stand still."""
        return is_stopped(await self._ask(lambda _, domain: domain.state()))

    async def has_driver(self) -> bool | None:
        """A driver uses the balloon; None: nobody can tell, as with QEMU."""
        if not self._has_balloon:
            return None
        return (await self.guest_stats()).was_heard(time.time(), await self.poll_interval())

    async def deflates_on_oom(self) -> bool:
        """The guest's kernel may take memory out of the balloon, and counts it as its own."""
        return self._deflates_on_oom

    async def hints_free_pages(self) -> bool:
        """Whatever it hints, its migration is libvirt's."""
        return False

    async def guest_stats(self) -> GuestStats:
        """The newest statistics, however old. Raises: GuestError, if there is no balloon."""
        self._check_balloon()
        return parse_statistics(await self._ask(lambda _, domain: domain.memoryStats()))

    async def poll_interval(self) -> int:
        """Seconds between questions; 0: none are asked. Raises: GuestError."""
        self._check_balloon()
        xml = await self._ask(lambda _, domain: domain.XMLDesc())
        return parse_balloon(xml).poll_interval_s

    async def set_poll_interval(self, seconds: int) -> None:
        """Ask the guest for statistics so often; at once, if it was not asked before."""
        self._check_balloon()
        await self._change(
            "dommemstat --period",
            lambda domain: domain.setMemoryStatsPeriod(seconds, AFFECT_LIVE),
        )

    def detour_interval(self, interval_s: int) -> int:  # noqa: ARG002 - of any other
        """Polling that begins asks at once."""
        return 0

    async def device_info(self) -> DeviceInfo | None:
        """Nothing: it is not ours."""
        return None

    async def _change(self, command: str, change: Callable[[Domain], object]) -> None:
        """Raises: CommandRefusedError, while libvirt moves or saves it: it would have us wait."""

        def ask(_: Connection, domain: Domain) -> None:
            job = job_of(domain)
            if job is not None:
                raise CommandRefusedError(command, "GenericError", job)
            change(domain)

        await self._ask(ask, writes=True)

    async def _ask(self, question: Callable[[Connection, Domain], T], *, writes: bool = False) -> T:
        """Of this run of the domain; another one has another number. Raises: MonitorError."""
        return await self._libvirt.call(
            lambda connection: question(connection, connection.lookupByID(self._number)),
            writes=writes,
            asked="libvirtd or the domain's QEMU",
        )

    def _check_balloon(self) -> None:
        if not self._has_balloon:
            raise GuestError(NO_BALLOON)


def _id(uri: str, name: str) -> MachineId:
    """Of one that was not found by its process."""
    known = domains_at(uri, processes()).get(name)
    return known or MachineId(KIND, printable(name), f"{KIND}:{uri}#{name}")


def _find(connection: Connection, name: str) -> tuple[int, BalloonElement]:
    """The number of its run. Raises: MonitorError, if it does not run."""
    with missing_if_gone():
        domain = connection.lookupByName(name)
        if not domain.isActive():
            raise MonitorError(f"{printable(name)} is shut off; `virsh start` starts it")
        return domain.ID(), parse_balloon(domain.XMLDesc())
    raise MonitorError(f"no domain is named {printable(name)} there")


def _observation(row: Row, who: MachineId, at_s: float) -> Observation:
    record, interval_s = row.record, row.balloon.poll_interval_s
    look = Observation(
        who,
        at_s,
        memory_bytes=record.memory_bytes,
        actual_bytes=record.actual_bytes,
        paused=record.paused,
        has_driver=record.stats.was_heard(time.time(), interval_s),
        problem=row.problem,
    )
    return with_statistics(look, record.stats, interval_s) if row.balloon.is_there else look
