"""`ballonet guest vmware`: a real Linux with its driver of VMware's balloon, and our host."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from ballonet.cli.served_guest import serve_guest, serving_options
from ballonet.cli.sibling_device import CapabilitiesType
from ballonet.cli.size import SizeType
from ballonet.errors import GuestError
from ballonet.guests.vmware_guest import VmwareGuest
from ballonet.runtime.system_clock import SystemClock
from ballonet.siblings.sibling_control import SiblingControl
from ballonet.vhost_user.listener import listening_socket
from ballonet.vmware.calls import CAPABILITY_NAMES, Capability
from ballonet.vmware.host import VmwareHost, VmwareHostSettings

__all__ = ["vmware"]


@click.command()
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(192 << 20, 3 << 30),
    default="512M",
    show_default=True,
    help="Memory of the guest.",
)
@click.option(
    "--capabilities",
    type=CapabilitiesType(),
    default=",".join(CAPABILITY_NAMES.values()),
    show_default=True,
    help="What the host grants; a doorbell cannot be rung here.",
)
@serving_options
def vmware(
    memory_bytes: int,
    capabilities: Capability,
    monitors: tuple[Path, ...],
    qemu_version: str,
    trace_path: Path | None,
) -> None:
    """Boot a real Linux that believes to run on VMware, in QEMU, and serve its balloon.

    The kernel and vmw_balloon, the driver, are Debian's.  It ends on SIGTERM and Ctrl-C.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(listening_socket(path)) for path in monitors]
        guest = stack.enter_context(VmwareGuest(memory_bytes))
        host = VmwareHost(SystemClock(), VmwareHostSettings(capabilities), ring_doorbell=None)
        server = stack.enter_context(guest.attached(host))
        control = SiblingControl(server)
        serve_guest(control, guest.linux.release, sockets, qemu_version, trace_path)
        if server.problem is not None:
            raise GuestError(server.problem)
