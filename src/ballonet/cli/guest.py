"""`ballonet guest`: start a guest by hand."""

from __future__ import annotations

import math
import signal
import socket
import sys
from pathlib import Path

import click

from ballonet.cli.size import SizeType
from ballonet.guests.console import interact
from ballonet.guests.embedded import EmbeddedGuestSettings, EmbeddedMachine
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.kernel.kernel import KernelSettings
from ballonet.kernel.workloads import WORKLOADS
from ballonet.units import format_bytes, pages_to_bytes

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


def _finite(_: click.Context, __: click.Parameter, value: float) -> float:
    """A range lets pass what is no number. Raises: BadParameter."""
    if math.isnan(value):
        raise click.BadParameter("not a number")
    return value


@guest.command()
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Balloon device to attach, a vhost-user socket.",
)
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(32 << 20, 1 << 44),
    default="512M",
    show_default=True,
    help="Memory of the guest; only what it uses is taken from the host.",
)
@click.option("--workload", type=click.Choice(list(WORKLOADS)), help="What runs in the guest.")
@click.option("--swap", "swap_bytes", type=SizeType(0, 1 << 44), default=0, help="Its swap.")
@click.option(
    "--page-size",
    "page_bytes",
    type=click.Choice(["4096", "16384", "65536"]),
    default="4096",
    show_default=True,
    help="Pages of the guest.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Same seed, same guest.")
@click.option(
    "--speed",
    type=click.FloatRange(0.01, 10_000),
    callback=_finite,
    default=1.0,
    help="Of its clock.",
)
@click.option(
    "--poison",
    type=click.IntRange(0, 255),
    help="Byte the guest fills freed pages with, 0 or 170 as Linux does; without it, none.",
)
@click.option(
    "--control-fd", type=click.IntRange(0), help="Take requests from this inherited socket."
)
def embedded(
    socket_path: Path,
    memory_bytes: int,
    workload: str | None,
    swap_bytes: int,
    page_bytes: str,
    seed: int,
    speed: float,
    poison: int | None,
    control_fd: int | None,
) -> None:
    """Run the embedded guest: a small kernel and driver of our own, which need nothing installed.

    It says what it has every second that something changed; Ctrl-C ends it.
    """
    settings = EmbeddedGuestSettings(
        memory_bytes - memory_bytes % (4 << 20),
        socket_path,
        int(page_bytes),
        workload,
        speed,
        KernelSettings(seed, swap_bytes, poison=poison),
    )
    control = None if control_fd is None else _adopted(control_fd)
    with EmbeddedMachine(settings) as machine:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, lambda *_: machine.stop())
        if control is not None:
            machine.listen(control)
        else:
            machine.every(1.0, _Teller(machine).tell)
        machine.run()


def _adopted(fd: int) -> socket.socket:
    """A socket that was inherited. Raises: BadParameter."""
    try:
        return socket.socket(fileno=fd)
    except OSError as error:
        raise click.BadParameter(f"{fd}: {error.strerror}", param_hint="--control-fd") from error


class _Teller:
    """Says what a guest has, when that has changed."""

    def __init__(self, machine: EmbeddedMachine) -> None:
        self._machine, self._told = machine, ""

    def tell(self) -> None:
        info, size = self._machine.kernel.meminfo(), self._machine.driver.size
        counters = self._machine.kernel.counters
        text = (
            f"balloon {format_bytes(pages_to_bytes(size.actual_pages))},"
            f" MemTotal {format_bytes(info['MemTotal'])}, free {format_bytes(info['MemFree'])},"
            f" available {format_bytes(info['MemAvailable'])},"
            f" swapped {format_bytes(info['SwapTotal'] - info['SwapFree'])},"
            f" OOM kills {counters.oom_kill}"
        )
        if text != self._told:
            self._told = text
            click.echo(text)
