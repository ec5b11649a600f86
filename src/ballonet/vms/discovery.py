"""Which machines run here, and what they tell: all are asked at once, each for a bounded time.

Names are found without asking any machine; only our hosts are asked for their guests.
Units: seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ballonet.errors import BallonetError, MonitorError
from ballonet.vms.adapters import ADAPTERS, connected_to
from ballonet.vms.find_libvirt import find_libvirt, is_of_libvirt
from ballonet.vms.find_ours import find_devices, find_hosts, guests_of_host
from ballonet.vms.find_qemu import find_qemu
from ballonet.vms.find_rest import find_cloud_hypervisor, find_firecracker
from ballonet.vms.host_memory import with_host_memory
from ballonet.vms.in_thread import in_thread
from ballonet.vms.observation import Observation
from ballonet.vms.processes import processes
from ballonet.vms.sighting import Sighting
from ballonet.vms.unix_sockets import SocketTable

__all__ = ["LOOK_S", "Found", "asked_together", "find_machines", "look_at", "look_together"]

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
    silent_s: float | None = None  #: since it was asked, if no answer came: it is an older one then


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
        *find_libvirt(running),
        *find_qemu((one for one in running if not is_of_libvirt(one)), SocketTable()),
        *find_firecracker(running),
        *find_cloud_hypervisor(running),
    ]
    return find_hosts(running), found


async def look_at(sightings: Sequence[Sighting], timeout_s: float = LOOK_S) -> list[Found]:
    """What each tells, in their order, within that time; one that is slow holds up no other."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def look(together: Sequence[Sighting]) -> list[Found]:
        async with room:
            return await look_together(together, timeout_s)

    parts = await asyncio.gather(*(look(one) for one in asked_together(sightings)))
    found = {id(one.sighting): one for part in parts for one in part}
    return [found[id(one)] for one in sightings]


def asked_together(sightings: Iterable[Sighting]) -> list[list[Sighting]]:
    """Parted into those that one question is enough for."""
    places: dict[tuple[str, str], list[Sighting]] = {}
    alone: list[list[Sighting]] = []
    for one in sightings:
        if one.place and ADAPTERS[one.who.kind].observe_all is not None:
            places.setdefault((one.who.kind, one.place), []).append(one)
        else:
            alone.append([one])
    return [*places.values(), *alone]


async def look_together(sightings: Sequence[Sighting], timeout_s: float) -> list[Found]:
    """What those tell that one question is enough for, within that time."""
    first = sightings[0]
    observe_all = ADAPTERS[first.who.kind].observe_all
    if not first.place or observe_all is None:
        return [await _look(one, timeout_s) for one in sightings]
    looks: Mapping[str, Observation | str] = {}
    why_not = ""
    try:
        async with asyncio.timeout(timeout_s):
            looks = await observe_all(first.place)
    except TimeoutError:
        why_not = f"{first.place} has not answered within {timeout_s:.0f} s"
    except BallonetError as error:
        why_not = str(error)
    found = []
    for one in sightings:
        look = looks.get(one.who.name, why_not or "it is gone")
        if isinstance(look, Observation) and not one.why_not:
            found.append(Found(one, look))
        else:
            found.append(await _from_outside(one, one.why_not or str(look)))
    return found


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
    return await _from_outside(sighting, why_not)


async def _from_outside(sighting: Sighting, why_not: str) -> Found:
    """What can be known without an answer."""
    look = Observation(sighting.who, time.monotonic(), memory_bytes=sighting.memory_bytes)
    if sighting.memory_bytes is not None:
        look = await with_host_memory(look, Path(sighting.address))
    return Found(sighting, look, why_not)
