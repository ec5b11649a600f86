"""Our own hosts and devices that run here: their command lines say where their monitors are.

A host is asked for its guests, each of which has a monitor of its own.
Units: seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from ballonet.errors import BallonetError
from ballonet.host.directory import default_directory
from ballonet.vms.command_line import option_value
from ballonet.vms.host_guests import find_guests
from ballonet.vms.observation import MachineId
from ballonet.vms.processes import Process
from ballonet.vms.reply import printable
from ballonet.vms.sighting import Sighting
from ballonet.vms.socket_names import name_of_socket

__all__ = ["find_devices", "find_hosts", "guests_of_host"]

_KIND: Final = "ballonet"
_DEVICE_ALONE: Final = "vhost-user-balloon"
#: How long one host may hold up a list.
_HOST_S: Final = 4.0
#: Verbs with a monitor of a balloon; `guest embedded` has one of a guest.
_GUESTS: Final = ("vmware", "hyperv")


def find_devices(running: Iterable[Process]) -> list[Sighting]:
    """One for each device, and each guest that we serve a balloon to."""
    found: dict[str, Sighting] = {}
    for process in running:
        words = _words(process.arguments)
        if words[:1] == ["device"] or (
            words[:1] == ["guest"] and words[1:2] and words[1] in _GUESTS
        ):
            sighting = _device(process, words)
            found.setdefault(sighting.address or str(process.pid), sighting)
    return list(found.values())


def find_hosts(running: Iterable[Process]) -> list[Path]:
    """The directory of each host."""
    found: dict[Path, None] = {}
    for process in running:
        words = _words(process.arguments)
        if words[:1] == ["host"] and not {"add", "remove", "list"} & set(words):
            given = option_value(words, "--directory") or process.environment("BALLONET_DIRECTORY")
            run_time = process.environment("XDG_RUNTIME_DIR")
            directory = Path(given) if given else default_directory(run_time, process.owner())
            found.setdefault(process.outside(str(directory)))
    return list(found)


async def guests_of_host(directory: Path) -> list[Sighting]:
    """One for each guest; none, if the host does not answer: it has none that could be named."""
    try:
        async with asyncio.timeout(_HOST_S):
            found, can_observe_all = await find_guests(directory)
    except (BallonetError, TimeoutError) as error:
        who = MachineId(_KIND, printable(directory.name))
        reason = str(error) or f"it has not answered within {_HOST_S:.0f} s"
        return [Sighting(who, why_not=f"a host of guests, {directory}: {reason}")]
    place = str(directory) if can_observe_all else ""
    return [Sighting(who, who.uri, place=place) for who in found]


def _device(process: Process, words: Sequence[str]) -> Sighting:
    address = option_value(words, "--qmp")
    if address is None or not address.startswith("unix:"):
        socket = option_value(words, "--socket-path")
        name = name_of_socket(socket) if socket else f"process-{process.pid}"
        why_not = "it was started without a monitor (--qmp)"
        return Sighting(MachineId(_KIND, name, "", process.pid), why_not=why_not)
    path = str(process.outside(address.removeprefix("unix:").partition(",")[0]))
    return Sighting(MachineId(_KIND, name_of_socket(path), path, process.pid), path)


def _words(arguments: Sequence[str]) -> list[str]:
    """What follows our program's name, from the verb on; nothing, if it is another program."""
    names = [one.rpartition("/")[2] for one in arguments[:3]]
    for index, name in enumerate(names):
        is_module = index > 0 and arguments[index - 1] == "-m"
        if name == _DEVICE_ALONE:
            return ["device", *arguments[index + 1 :]]
        # An interpreter stands before it, or nothing.
        if name == "ballonet" and (is_module or index == 0 or "python" in names[0]):
            rest = list(arguments[index + 1 :])
            while rest and rest[0].startswith("-"):
                rest.pop(0)
            return rest
    return []
