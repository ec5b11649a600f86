"""`ballonet guest`: start a guest by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ballonet.cli.embedded_guest import embedded
from ballonet.cli.hyperv_guest import hyperv
from ballonet.cli.size import SizeType
from ballonet.cli.vmware_guest import vmware
from ballonet.guests.console import interact
from ballonet.guests.linux import LinuxGuestSettings

__all__ = ["guest"]

#: Below, the kernel does not boot; above, it does not start.
GUEST_SIZE = SizeType(64 << 20, 64 << 30)


@click.group()
def guest() -> None:
    """Start a guest by hand."""


@guest.command()
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    help="Balloon device to attach, a vhost-user socket; without it the guest has none.",
)
@click.option(
    "--memory",
    "memory_bytes",
    type=GUEST_SIZE,
    default="512M",
    show_default=True,
    help="Memory of the guest.",
)
@click.option("--append", multiple=True, metavar="ARGUMENT", help="A further kernel argument.")
def linux(socket_path: Path | None, memory_bytes: int, append: tuple[str, ...]) -> None:
    """Boot a real Linux kernel with a root shell on this terminal.

    `poweroff -f`, or leaving the shell, ends it.
    """
    if socket_path is not None and not socket_path.is_socket():
        raise click.UsageError(f"--socket: no socket at {socket_path}; start `ballonet device`")
    settings = LinuxGuestSettings(memory_bytes, socket_path, command_line=append)
    sys.exit(interact(settings))


guest.add_command(embedded)
guest.add_command(hyperv)
guest.add_command(vmware)
