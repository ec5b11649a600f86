"""The kinds of virtual machine monitors that can be spoken to, a row each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple

from ballonet.vms import (
    cloud_hypervisor,
    firecracker,
    host_guests,
    libvirt_machine,
    qmp_machine,
)
from ballonet.vms.machine import Machine
from ballonet.vms.observation import MachineId, Observation
from ballonet.vms.sighting import Sighting

__all__ = ["ADAPTERS", "ANY_QMP", "Adapter", "connected_at", "connected_to"]

#: By its address, and by who it is, if that is known.
Connect = Callable[[str, MachineId | None], AbstractAsyncContextManager[Machine]]
#: By its place; what each tells, or why it tells nothing.
ObserveAll = Callable[[str], Awaitable[Mapping[str, Observation | str]]]
#: Place, names, how often to ask for statistics, and how often they are asked for: who is, then.
ChangePolling = Callable[[str, Collection[str], int, int], Awaitable[Collection[str]]]


class Adapter(NamedTuple):
    """How machines of a kind are spoken to."""

    connected: Connect
    #: Every machine of one place in one question, by name. Raises: MonitorError.
    #: None: each machine is asked by itself.
    observe_all: ObserveAll | None = None
    #: The same for how often guests are asked for statistics; others keep their interval.
    change_polling: ChangePolling | None = None
    one_client: bool = False  #: whoever talks to a machine keeps all others waiting


#: Whoever serves a QMP socket.
ANY_QMP: Final = "qmp"
ADAPTERS: Final[Mapping[str, Adapter]] = {
    ANY_QMP: Adapter(qmp_machine.connected),
    "qemu": Adapter(qmp_machine.connected, one_client=True),
    "ballonet": Adapter(qmp_machine.connected, host_guests.observe_all, host_guests.change_polling),
    "firecracker": Adapter(firecracker.connected),
    "cloud-hypervisor": Adapter(cloud_hypervisor.connected),
    "libvirt": Adapter(libvirt_machine.connected, libvirt_machine.observe_all),
}


def connected_at(kind: str, address: str) -> AbstractAsyncContextManager[Machine]:
    """A machine that nobody knows yet, connected inside the block. Raises: BallonetError."""
    return ADAPTERS[kind].connected(address, None)


def connected_to(sighting: Sighting) -> AbstractAsyncContextManager[Machine]:
    """A machine that was found, connected inside the block. Raises: BallonetError."""
    return ADAPTERS[sighting.who.kind].connected(sighting.address, sighting.who)
