"""The kinds of virtual machine monitors that can be spoken to, a row each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple

from ballonet.vms import cloud_hypervisor, firecracker, qmp_machine
from ballonet.vms.machine import Machine
from ballonet.vms.observation import MachineId, Observation
from ballonet.vms.sighting import Sighting

__all__ = ["ADAPTERS", "ANY_QMP", "Adapter", "connected_at", "connected_to"]

#: By its address, and by who it is, if that is known.
Connect = Callable[[str, MachineId | None], AbstractAsyncContextManager[Machine]]
ObserveAll = Callable[[str], Awaitable[Mapping[str, Observation]]]


class Adapter(NamedTuple):
    """How machines of a kind are spoken to."""

    connected: Connect
    #: Every machine of one place in one question, by name. Raises: MonitorError.
    #: None: each machine is asked by itself.
    observe_all: ObserveAll | None = None


#: Whoever serves a QMP socket.
ANY_QMP: Final = "qmp"
ADAPTERS: Final[Mapping[str, Adapter]] = {
    ANY_QMP: Adapter(qmp_machine.connected),
    "qemu": Adapter(qmp_machine.connected),
    "ballonet": Adapter(qmp_machine.connected),
    "firecracker": Adapter(firecracker.connected),
    "cloud-hypervisor": Adapter(cloud_hypervisor.connected),
}


def connected_at(kind: str, address: str) -> AbstractAsyncContextManager[Machine]:
    """A machine that nobody knows yet, connected inside the block. Raises: BallonetError."""
    return ADAPTERS[kind].connected(address, None)


def connected_to(sighting: Sighting) -> AbstractAsyncContextManager[Machine]:
    """A machine that was found, connected inside the block. Raises: BallonetError."""
    return ADAPTERS[sighting.who.kind].connected(sighting.address, sighting.who)
