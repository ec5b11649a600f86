"""`ballonet guest hyperv`: a real Linux with its driver of Hyper-V's balloon, and our host."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from ballonet.balloon.clock import NS_PER_S
from ballonet.cli.seconds import SecondsType
from ballonet.cli.served_guest import serve_guest, serving_options
from ballonet.cli.size import SizeType
from ballonet.guests.hyperv_guest import BLOCK_BYTES, HypervGuest
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.siblings.sibling_control import SiblingControl
from ballonet.vhost_user.listener import listening_socket

__all__ = ["hyperv"]


@click.command()
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(192 << 20, 2 << 30),
    default="512M",
    show_default=True,
    help="Memory of the guest.",
)
@click.option(
    "--spare",
    "spare_bytes",
    type=SizeType(128 << 20, 1 << 30),
    default=0,
    help="Further memory of its machine, which is added to it when it shall have more: a multiple"
    " of 128M, as --memory must be then.",
)
@click.option("--status-report", is_flag=True, help="Have it report its memory, as QEMU's.")
@click.option(
    "--post-init-wait",
    "post_init_wait_s",
    type=SecondsType(),
    help="Ask nothing of it so soon after it begins; QEMU waits 50s, for Windows.",
)
@click.option(
    "--hibernation", "can_hibernate", is_flag=True, help="Let its driver ignore what it is asked."
)
@serving_options
def hyperv(
    memory_bytes: int,
    spare_bytes: int,
    post_init_wait_s: float | None,
    monitors: tuple[Path, ...],
    qemu_version: str,
    trace_path: Path | None,
    *,
    status_report: bool,
    can_hibernate: bool,
) -> None:
    """Boot a real Linux whose driver finds Hyper-V's bus, in QEMU, and serve its balloon.

    The kernel and hv_balloon, the driver, are Debian's; the bus is a module of ours.  It ends on
    SIGTERM and Ctrl-C.
    """
    if spare_bytes and (memory_bytes | spare_bytes) % BLOCK_BYTES:
        raise click.UsageError("--spare and --memory with it: multiples of 128M")
    settings = HypervHostSettings(
        post_init_wait_ns=int((post_init_wait_s or 0) * NS_PER_S),
        status_report=status_report,
        extra_gpa=memory_bytes if spare_bytes else 0,
        extra_bytes=spare_bytes,
    )
    with ExitStack() as stack:
        sockets = [stack.enter_context(listening_socket(path)) for path in monitors]
        made = HypervGuest(memory_bytes, spare_bytes=spare_bytes, can_hibernate=can_hibernate)
        guest = stack.enter_context(made)
        server = guest.attach(settings)
        control = SiblingControl(server, wants_reports=status_report)
        serve_guest(control, guest.linux.release, sockets, qemu_version, trace_path)
