"""Machines of Firecracker's and Cloud Hypervisor's that run here, by their command lines.

Firecracker in a jail names its socket as the jail sees it.
Source: `firecracker --help`, `cloud-hypervisor --help`; Firecracker docs/jailer.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ballonet.vms.command_line import option_value
from ballonet.vms.observation import MachineId
from ballonet.vms.processes import Process
from ballonet.vms.reply import printable
from ballonet.vms.sighting import Sighting
from ballonet.vms.socket_names import name_of_socket

__all__ = ["find_cloud_hypervisor", "find_firecracker"]

_FIRECRACKER: Final = "firecracker"
_CLOUD_HYPERVISOR: Final = "cloud-hypervisor"
_DEFAULT_SOCKET: Final = "/run/firecracker.socket"
#: Firecracker's, for one that was given no name.
_NO_NAME: Final = "anonymous-instance"


def find_firecracker(running: Iterable[Process]) -> list[Sighting]:
    """One for each Firecracker; releases are called firecracker-v1.13.1-x86_64."""
    return [
        _firecracker(one)
        for one in running
        if one.program == _FIRECRACKER or one.program.startswith(f"{_FIRECRACKER}-v")
    ]


def find_cloud_hypervisor(running: Iterable[Process]) -> list[Sighting]:
    """One for each Cloud Hypervisor."""
    return [
        _cloud_hypervisor(one)
        for one in running
        if one.program in (_CLOUD_HYPERVISOR, f"{_CLOUD_HYPERVISOR}-static")
    ]


def _firecracker(process: Process) -> Sighting:
    path = str(process.outside(option_value(process.arguments, "--api-sock") or _DEFAULT_SOCKET))
    name = option_value(process.arguments, "--id")
    if not name or name == _NO_NAME:
        name = name_of_socket(path)
    if "--no-api" in process.arguments:
        who = MachineId(_FIRECRACKER, printable(name), "", process.pid)
        return Sighting(who, why_not="it was started with --no-api")
    return _reachable(_FIRECRACKER, name, path, process.pid)


def _cloud_hypervisor(process: Process) -> Sighting:
    value = option_value(process.arguments, "--api-socket") or ""
    path = value.removeprefix("path=").partition(",")[0]
    if not path or value.startswith("fd="):
        who = MachineId(_CLOUD_HYPERVISOR, f"process-{process.pid}", "", process.pid)
        why_not = "it was started without --api-socket PATH"
        return Sighting(who, why_not=why_not)
    path = str(process.outside(path))
    return _reachable(_CLOUD_HYPERVISOR, name_of_socket(path), path, process.pid)


def _reachable(kind: str, name: str, path: str, pid: int) -> Sighting:
    return Sighting(MachineId(kind, printable(name), f"{kind}:{path}", pid), path)
