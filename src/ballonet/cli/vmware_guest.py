"""`ballonet guest vmware`: a real Linux with its driver of VMware's balloon, and our host."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click

from ballonet.cli.monitor_address import QEMU_VERSION_OPTION, MonitorAddress
from ballonet.cli.sibling_device import CapabilitiesType
from ballonet.cli.size import SizeType
from ballonet.errors import GuestError
from ballonet.guests.vmware_guest import VmwareGuest
from ballonet.monitor.serving import monitoring
from ballonet.qmp.version import VERSIONS
from ballonet.runtime.system_clock import SystemClock
from ballonet.siblings.sibling_control import SiblingControl
from ballonet.trace.recording import recording
from ballonet.trace.writer import TraceWriter
from ballonet.vhost_user.listener import listening_socket
from ballonet.vmware.calls import CAPABILITY_NAMES, Capability
from ballonet.vmware.host import VmwareHost, VmwareHostSettings

__all__ = ["vmware"]

_TRACE_BYTES_MAX: Final = 1 << 30


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
@click.option(
    "--qmp",
    "monitors",
    multiple=True,
    type=MonitorAddress(),
    metavar="unix:PATH,server=on,wait=off",
    help="Serve QEMU's monitor protocol at this socket; may be repeated.",
)
@QEMU_VERSION_OPTION
@click.option(
    "--trace",
    "trace_path",
    type=click.Path(path_type=Path),
    help="Record the conversation in this file; see `ballonet trace`.",
)
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
        if trace_path is not None:
            writer = TraceWriter(trace_path, _TRACE_BYTES_MAX)
            stack.enter_context(recording(control, writer, server.add_timed))
        if sockets:
            version = VERSIONS[qemu_version]
            stack.enter_context(monitoring(control, sockets, version=version))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: server.stop())
        click.echo(f"ballonet: Linux {guest.linux.release} is served", err=True)
        server.run()
        if server.problem is not None:
            raise GuestError(server.problem)
