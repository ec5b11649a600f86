"""`ballonet guest embedded`: a small kernel and driver of our own; it can move away and arrive."""

from __future__ import annotations

import math
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ballonet.cli.monitor_address import MonitorAddress
from ballonet.cli.size import SizeType
from ballonet.errors import MigrationError
from ballonet.guests.embedded import BALLOONS, EmbeddedGuestSettings, EmbeddedMachine
from ballonet.guests.guest_monitor import GuestMonitor, monitoring_guest
from ballonet.guests.migration_destination import MigrationDestination
from ballonet.guests.postcopy_arrival import PostcopyArrival
from ballonet.kernel.kernel import KernelSettings
from ballonet.kernel.workloads import WORKLOADS
from ballonet.migration.rendezvous import listen
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.vhost_user.listener import listening_socket

__all__ = ["embedded"]


def _finite(_: click.Context, __: click.Parameter, value: float) -> float:
    """A range lets pass what is no number. Raises: BadParameter."""
    if math.isnan(value):
        raise click.BadParameter("not a number")
    return value


@click.command()
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Balloon to attach: a vhost-user socket, or that of `ballonet device --balloon`.",
)
@click.option(
    "--balloon",
    type=click.Choice(BALLOONS),
    default="virtio",
    show_default=True,
    help="The kind of balloon it has, and its driver.",
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
    "--qmp",
    "qmp_path",
    type=MonitorAddress(),
    metavar="unix:PATH,server=on,wait=off",
    help="Serve a monitor by which the guest is stopped, asked and moved.",
)
@click.option(
    "--device-qmp",
    "device_qmp_path",
    type=click.Path(path_type=Path),
    help="Monitor of its balloon device, which asks what is free when the guest moves.",
)
@click.option(
    "--incoming",
    "incoming_uri",
    metavar="URI",
    help="Wait for a guest that moves here: unix:PATH, tcp:HOST:PORT or fd:N.",
)
@click.option(
    "--control-fd", type=click.IntRange(0), help="Take requests from this inherited socket."
)
def embedded(
    socket_path: Path,
    memory_bytes: int,
    page_bytes: str,
    speed: float,
    control_fd: int | None,
    **options: Any,  # noqa: ANN401 - of its kernel, its monitor and its way here
) -> None:
    """Run the embedded guest: a small kernel and driver of our own, which need nothing installed.

    It says what it has every second that something changed; Ctrl-C ends it.

    With --qmp it can be moved: `ballonet migrate PATH URI` brings it to where another one waits
    with --incoming URI and as much --memory, behind a device of its own.
    """
    settings = EmbeddedGuestSettings(
        memory_bytes - memory_bytes % (4 << 20),
        socket_path,
        int(page_bytes),
        options["workload"],
        speed,
        KernelSettings(options["seed"], options["swap_bytes"], poison=options["poison"]),
        balloon=options["balloon"],
    )
    control = None if control_fd is None else _adopted(control_fd)
    incoming_uri = options["incoming_uri"]
    if incoming_uri is not None and settings.balloon != "virtio":
        raise click.UsageError(f"--incoming: a guest with --balloon {settings.balloon} cannot move")
    with ExitStack() as stack:
        machine = stack.enter_context(
            EmbeddedMachine(settings, waits_for_state=incoming_uri is not None)
        )
        monitor = arrival = None
        if options["qmp_path"] is not None:
            sock = stack.enter_context(listening_socket(options["qmp_path"]))
            device_qmp = options["device_qmp_path"]
            hints = None if device_qmp is None else str(device_qmp.absolute())
            monitor = stack.enter_context(monitoring_guest(machine, [sock], hints_monitor=hints))
        if incoming_uri is not None:
            arrival = _receive(machine, incoming_uri, monitor)
            if arrival is not None:
                stack.callback(arrival.close)
        _run(machine, control)
        if arrival is not None and arrival.status == "failed":
            raise MigrationError(f"the guest is lost: {arrival.reason}")


def _receive(
    machine: EmbeddedMachine, uri: str, monitor: GuestMonitor | None
) -> PostcopyArrival | None:
    """Wait for a guest; one that was paused stays so if there is a monitor to let it go on.

    Returns how its memory arrives, where that may be later.
    Raises: BallonetError; the source has it then.
    """
    with ExitStack() as waiting:
        listener = waiting.enter_context(listen(uri))
        click.echo(f"ballonet: waiting for a guest at {listener.uri}", err=True)
        with listener.accept() as channel:
            destination = MigrationDestination(machine, channel, listener)
            destination.receive()
        arrival = destination.postcopy
        if arrival is not None:
            arrival.follow(waiting.pop_all())
    if monitor is not None:
        monitor.arrived(arrival, is_paused=destination.is_paused)
    machine.go_on()
    is_whole = arrival is None or arrival.is_whole
    text = "has arrived" if is_whole else "goes on here, and its memory follows"
    click.echo(f"ballonet: the guest {text}", err=True)
    return arrival


def _run(machine: EmbeddedMachine, control: socket.socket | None) -> None:
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
        info = self._machine.kernel.meminfo()
        counters = self._machine.kernel.counters
        text = (
            f"balloon {format_bytes(pages_to_bytes(self._machine.balloon.actual_pages))},"
            f" MemTotal {format_bytes(info['MemTotal'])}, free {format_bytes(info['MemFree'])},"
            f" available {format_bytes(info['MemAvailable'])},"
            f" swapped {format_bytes(info['SwapTotal'] - info['SwapFree'])},"
            f" OOM kills {counters.oom_kill}"
        )
        if text != self._told:
            self._told = text
            click.echo(text)
