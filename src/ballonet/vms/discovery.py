"""Which machines run here, and what they tell: all are asked at once, each for a bounded time.

Names are found without asking any machine; only our hosts are asked for their guests.
Units: seconds.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ballonet.errors import BallonetError, MonitorError
from ballonet.vms.adapters import connected_to
from ballonet.vms.find_ours import find_devices, find_hosts, guests_of_host
from ballonet.vms.find_qemu import find_qemu
from ballonet.vms.find_rest import find_cloud_hypervisor, find_firecracker
from ballonet.vms.host_memory import with_host_memory
from ballonet.vms.in_thread import in_thread
from ballonet.vms.observation import Observation
from ballonet.vms.processes import processes
from ballonet.vms.sighting import Sighting
from ballonet.vms.unix_sockets import SocketTable

__all__ = ["LOOK_S", "Found", "find_machines", "look_at"]

#: For what the kernel tells; a process that it cannot look into may keep it waiting.
_FIND_S: Final = 10.0
#: For one machine, whatever it does; a greeting alone may take 3 s.
LOOK_S: Final = 6.0
#: More would have each wait for this program's own processor time, and look slow.
_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Found:
    """A machine, and what it tells."""

    sighting: Sighting
    observation: Observation
    why_not: str = ""  #: why it cannot be asked: the observation is then from outside


async def find_machines() -> list[Sighting]:
    """Every machine that this user may see, by kind and name. Raises: MonitorError."""
    try:
        async with asyncio.timeout(_FIND_S):
            hosts, found = await in_thread(_find)
    except TimeoutError:
        raise MonitorError(f"reading /proc takes more than {_FIND_S:.0f} s") from None
    for guests in await asyncio.gather(*(guests_of_host(one) for one in hosts)):
        found += guests
    return sorted(found, key=lambda one: (one.who.kind, one.who.name, one.who.pid or 0))


def _find() -> tuple[list[Path], list[Sighting]]:
    """The directories of our hosts, and every other machine: nobody is asked anything."""
    running = processes()
    found = [
        *find_devices(running),
        *find_qemu(running, SocketTable()),
        *find_firecracker(running),
        *find_cloud_hypervisor(running),
    ]
    return find_hosts(running), found


async def look_at(sightings: list[Sighting], timeout_s: float = LOOK_S) -> list[Found]:
    """What each tells, in their order, within that time; one that is slow holds up no other."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def look(one: Sighting) -> Found:
        async with room:
            return await _look(one, timeout_s)

    return list(await asyncio.gather(*(look(one) for one in sightings)))


async def _look(sighting: Sighting, timeout_s: float) -> Found:
    why_not = sighting.why_not
    if not why_not:
        try:
            async with asyncio.timeout(timeout_s), connected_to(sighting) as machine:
                return Found(sighting, await machine.observe())
        except TimeoutError:
            why_not = f"it has not answered within {timeout_s:.0f} s"
        except BallonetError as error:
            why_not = str(error)
    look = Observation(sighting.who, time.monotonic(), memory_bytes=sighting.memory_bytes)
    if sighting.memory_bytes is not None:
        look = await with_host_memory(look, Path(sighting.path))
    return Found(sighting, look, why_not)
