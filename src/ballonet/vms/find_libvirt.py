"""Domains of libvirt that run here, by the command lines of their QEMUs: nobody is asked.

libvirt gives each QEMU a key in a folder of the domain's own, which says whose it is: the system's
libvirtd, or that of a user's session.  libvirt has the monitor of such a QEMU for as long as it
lives, and wants it back when it comes again after a crash, so it is never connected to.
Source: libvirt src/qemu/qemu_command.c (qemuBuildMasterKeyCommandLine), src/qemu/qemu_conf.c.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ballonet.errors import MonitorError
from ballonet.vms import libvirt_api
from ballonet.vms.libvirt_calls import LibvirtCalls
from ballonet.vms.observation import MachineId
from ballonet.vms.processes import Process
from ballonet.vms.qemu_command_line import is_qemu, parse_qemu_command_line
from ballonet.vms.reply import printable
from ballonet.vms.sighting import Sighting

__all__ = ["KIND", "domains_at", "find_libvirt", "find_shut_off", "is_of_libvirt"]

KIND: Final = "libvirt"
_SYSTEM, _SESSION = "qemu:///system", "qemu:///session"
_SYSTEM_FOLDER: Final = Path("/var/lib/libvirt/qemu")
_KEY: Final = re.compile(r"(/[^\"]*)/domain-\d+-[^/]*/master-key\.aes")
_NOT_INSTALLED: Final = (
    "libvirt has its monitor; to have libvirt asked: pip install 'ballonet[libvirt]'"
)
_NOT_OURS: Final = "a libvirtd has its monitor that is another user's, or in a container"


@dataclass(frozen=True, slots=True)
class _Domain:
    process: Process
    name: str
    uri: str  #: of the connection; empty: whose it is cannot be told
    memory_bytes: int | None


def is_of_libvirt(process: Process) -> bool:
    """Whether a process is a QEMU that libvirt has started."""
    return _folder(process) is not None


def find_libvirt(running: Iterable[Process]) -> list[Sighting]:
    """One for each QEMU of libvirt's; those that libvirt cannot be asked for are `qemu`."""
    is_installed = libvirt_api.is_installed()
    domains = _domains(running)
    ids = _ids(domains)
    found = []
    for one in domains:
        if one.uri and is_installed:
            address = f"{one.uri}#{one.name}"
            found.append(Sighting(ids[one], address, "", one.memory_bytes, place=one.uri))
        else:
            who = MachineId("qemu", printable(one.name), "", one.process.pid)
            why_not = _NOT_OURS if is_installed else _NOT_INSTALLED
            found.append(Sighting(who, "", why_not, one.memory_bytes))
    return found


def domains_at(uri: str, running: Iterable[Process]) -> Mapping[str, MachineId]:
    """The domains of a connection, by name."""
    domains = _domains(running)
    return {one.name: who for one, who in _ids(domains).items() if one.uri == uri}


async def find_shut_off(name: str) -> list[Sighting]:
    """Domains of a name that libvirt knows and that do not run; none, if it cannot be asked."""
    if not libvirt_api.is_installed():
        return []
    kind, colon, rest = name.partition(":")
    name = rest if colon and kind == KIND else name
    found = await asyncio.gather(*(_shut_off_at(uri, name) for uri in _uris().values()))
    return [one for one in found if one is not None]


async def _shut_off_at(uri: str, name: str) -> Sighting | None:
    async with LibvirtCalls(uri) as libvirt:
        with suppress(MonitorError):
            if not await libvirt.call(lambda connection: connection.lookupByName(name).isActive()):
                start = f"virsh -c {uri} start {printable(name)}"
                why_not = f"it is shut off; `{start}` starts it"
                return Sighting(MachineId(KIND, printable(name)), why_not=why_not)
    return None


def _domains(running: Iterable[Process]) -> list[_Domain]:
    uris = _uris()
    found = []
    for process in running:
        folder = _folder(process)
        if folder is not None:
            line = parse_qemu_command_line(process.arguments[1:])
            uri = next((uri for home, uri in uris.items() if folder.is_relative_to(home)), "")
            found.append(_Domain(process, line.name, uri, line.memory_bytes))
    return found


def _ids(domains: Sequence[_Domain]) -> dict[_Domain, MachineId]:
    """Where two connections have a domain of one name, each names its connection."""
    count = Counter(one.name for one in domains if one.uri)
    return {
        one: MachineId(
            KIND,
            printable(one.name),
            f"{KIND}:{one.name}" if count[one.name] == 1 else f"{KIND}:{one.uri}#{one.name}",
            one.process.pid,
        )
        for one in domains
        if one.uri
    }


def _folder(process: Process) -> Path | None:
    """Where its libvirtd keeps what belongs to domains."""
    if not is_qemu(process.program):
        return None
    for argument in process.arguments:
        key = _KEY.search(argument) if "master-key.aes" in argument else None
        if key is not None:
            return Path(key[1])
    return None


def _uris() -> dict[Path, str]:
    """Connections on this machine, by the folder in which their domains' are."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    uris = {_SYSTEM_FOLDER: _SYSTEM, Path(config) / "libvirt": _SESSION}
    given = os.environ.get("LIBVIRT_DEFAULT_URI", "")
    parts = urlsplit(given)
    if parts.scheme in ("qemu", "qemu+unix") and not parts.netloc:
        return {
            home: given if urlsplit(uri).path == parts.path else uri for home, uri in uris.items()
        }
    return uris
