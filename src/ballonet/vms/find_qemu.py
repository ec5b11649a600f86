"""QEMU's machines that run here, by their command lines.

A monitor serves one client; whose client has it is told without connecting to it, which would wait
in its queue.  libvirt gives QEMU the socket of its monitor and holds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ballonet.vms.observation import MachineId
from ballonet.vms.processes import Process
from ballonet.vms.qemu_command_line import MonitorPlace, is_qemu, parse_qemu_command_line
from ballonet.vms.reply import printable
from ballonet.vms.sighting import Sighting
from ballonet.vms.socket_names import name_of_socket
from ballonet.vms.unix_sockets import SocketTable, socket_inode

__all__ = ["find_qemu"]

_KIND: Final = "qemu"


def find_qemu(running: Iterable[Process], sockets: SocketTable) -> list[Sighting]:
    """One for each QEMU that emulates a machine."""
    return [_sighting(one, sockets) for one in running if is_qemu(one.program)]


def _sighting(process: Process, sockets: SocketTable) -> Sighting:
    line = parse_qemu_command_line(process.arguments[1:])
    tried = [_reach(process, place, sockets) for place in line.monitors]
    path = next((path for path, why_not in tried if not why_not), "")
    why_not = ""
    if not path:
        why_not = next((why for _, why in tried), "it was started without a QMP monitor (-qmp)")
    name = printable(line.name) or next(
        (name_of_socket(path) for path, _ in tried if path), f"process-{process.pid}"
    )
    who = MachineId(_KIND, name, path, process.pid)
    return Sighting(who, path, why_not, line.memory_bytes)


def _reach(process: Process, place: MonitorPlace, sockets: SocketTable) -> tuple[str, str]:
    """Where a monitor is, and why it cannot be spoken to."""
    if place.why_not:
        return "", printable(place.why_not)
    path = place.path
    if place.fd is not None:
        inode = socket_inode(Path(f"/proc/{process.pid}/fd/{place.fd}"))
        path = "" if inode is None else sockets.path_of(inode) or ""
    if not path:
        return "", "where its monitor is cannot be found out"
    outside = process.outside(path)
    if sockets.has_client(outside) and not sockets.has_us(outside):
        client = sockets.client_of(outside)
        holder = "another program" if client is None else str(client)
        return str(outside), f"its monitor serves one client at a time, and {holder} has it"
    return str(outside), ""
