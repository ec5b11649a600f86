"""How people name a machine: by its name, by `kind:name` where two share one, or by its socket.

web                        the machine of that name that runs here
qemu:web                   the QEMU of that name
/run/vm1/qmp, ./qmp        whoever serves that socket
firecracker:/run/fc.sock   the same, where its kind cannot be seen from its process
libvirt:qemu:///session#web    the domain of that name of one libvirtd
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from ballonet.errors import MonitorError
from ballonet.vms.adapters import ADAPTERS, ANY_QMP, connected_at, connected_to
from ballonet.vms.discovery import find_machines
from ballonet.vms.find_libvirt import find_shut_off
from ballonet.vms.find_rest import find_cloud_hypervisor, find_firecracker
from ballonet.vms.in_thread import in_thread
from ballonet.vms.machine import Machine
from ballonet.vms.processes import processes
from ballonet.vms.sighting import Sighting

__all__ = ["connected", "find_matching", "qmp_path"]


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Machine]:
    """A machine, connected inside the block. Raises: BallonetError, saying what to do."""
    place = await in_thread(lambda: _place_of(address))
    if place is not None:
        async with connected_at(*place) as machine:
            yield machine
        return
    async with connected_to(await _find(address)) as machine:
        yield machine


async def qmp_path(address: str) -> Path:
    """Where a machine's QMP monitor is. Raises: MonitorError, if it has none."""
    place = await in_thread(lambda: _place_of(address))
    if place is None:
        sighting = await _find(address)
        place = sighting.who.kind, sighting.address
    kind, address_there = place
    if kind == "libvirt":
        uri, _, name = address_there.partition("#")
        raise MonitorError(
            "libvirt has its monitor, and marks a domain as tainted where others use it; by hand:"
            f" virsh -c {uri} qemu-monitor-command {name} --hmp 'info balloon'"
        )
    if kind in ("firecracker", "cloud-hypervisor"):
        raise MonitorError(f"{address} is a machine of {kind}, which has no such monitor")
    return Path(address_there)


def find_matching(sightings: list[Sighting], pattern: str) -> list[Sighting]:
    """Those whose name or `kind:name` a pattern of the shell's kind matches."""
    return [
        one
        for one in sightings
        if fnmatchcase(one.who.name, pattern)
        or fnmatchcase(f"{one.who.kind}:{one.who.name}", pattern)
    ]


def _place_of(address: str) -> tuple[str, str] | None:
    """Kind and socket, if that is what is written; None: it is a name."""
    kind, colon, rest = address.partition(":")
    if colon and kind in ADAPTERS and (kind == ANY_QMP or "/" in rest or Path(rest).is_socket()):
        return kind, rest
    path = Path(address)
    if "/" in address or path.is_socket():
        return _kind_of_server(path), address
    return None


def _kind_of_server(path: Path) -> str:
    """By the process that serves a socket; QMP, if it is not known."""
    running = processes()
    for one in find_firecracker(running) + find_cloud_hypervisor(running):
        with suppress(OSError):
            if one.address and Path(one.address).samefile(path):
                return one.who.kind
    return ANY_QMP


async def _find(name: str) -> Sighting:
    """The one machine of a name. Raises: MonitorError."""
    everything = await find_machines()
    found = [one for one in everything if name in (one.who.name, f"{one.who.kind}:{one.who.name}")]
    found = found or await find_shut_off(name)
    if not found:
        names = sorted({one.who.name for one in everything})
        known = f"there are {', '.join(names)}" if names else "there is none"
        raise MonitorError(f"no machine here is named {name}; {known}, see `ballonet list`")
    if len(found) > 1:
        ways = {f"{one.who.kind}:{one.who.name}" for one in found}
        if len(ways) < len(found):
            ways = {one.who.uri for one in found if one.who.uri}
        raise MonitorError(f"{len(found)} machines are named {name}: {', '.join(sorted(ways))}")
    if found[0].why_not:
        raise MonitorError(f"{name} cannot be reached: {found[0].why_not}")
    return found[0]
