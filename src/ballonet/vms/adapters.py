"""The kinds of virtual machine monitors that can be spoken to, a row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from ballonet.vms import cloud_hypervisor, firecracker, qmp_machine
from ballonet.vms.machine import Machine
from ballonet.vms.observation import MachineId
from ballonet.vms.sighting import Sighting

__all__ = ["ADAPTERS", "ANY_QMP", "connected_at", "connected_to"]

Connect = Callable[[Path, MachineId | None], AbstractAsyncContextManager[Machine]]

#: Whoever serves a QMP socket.
ANY_QMP: Final = "qmp"
ADAPTERS: Final[Mapping[str, Connect]] = {
    ANY_QMP: qmp_machine.connected,
    "qemu": qmp_machine.connected,
    "ballonet": qmp_machine.connected,
    "firecracker": firecracker.connected,
    "cloud-hypervisor": cloud_hypervisor.connected,
}


def connected_at(kind: str, path: Path) -> AbstractAsyncContextManager[Machine]:
    """A machine that nobody knows yet, connected inside the block. Raises: BallonetError."""
    return ADAPTERS[kind](path, None)


def connected_to(sighting: Sighting) -> AbstractAsyncContextManager[Machine]:
    """A machine that was found, connected inside the block. Raises: BallonetError."""
    return ADAPTERS[sighting.who.kind](Path(sighting.path), sighting.who)
