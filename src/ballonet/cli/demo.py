"""`ballonet demo`: the main job, a real Linux kernel that gives memory back and takes it again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ballonet.cli.demo_autopilot import autopilot
from ballonet.cli.demo_migrate import migrate
from ballonet.cli.size import SizeType
from ballonet.control.device_control import DeviceControl
from ballonet.control.status import Status
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import (
    Ballooned,
    BalloonedEmbeddedGuest,
    BalloonedGuest,
    Resized,
)
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.guest import Guest
from ballonet.guests.kernel_package import find_kernel_package
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.units import bytes_to_pages, format_bytes, pages_to_bytes

__all__ = ["Figures", "GuestView", "demo", "figures_table", "moments"]

#: Of the memory the guest calls available; the rest keeps its own programs alive.
_FILL_PERCENT = 90
_STALLED_AFTER_S = 10.0
_HOLD_INTERVAL_S = 3600.0


@dataclass(frozen=True, slots=True)
class GuestView:
    """What the guest itself says it has."""

    total_bytes: int
    available_bytes: int

    @classmethod
    def of(cls, guest: Guest) -> GuestView:
        """Ask the guest."""
        meminfo = guest.meminfo()
        return cls(meminfo["MemTotal"], meminfo["MemAvailable"])


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run measured; host bytes are blocks of the guest's memory file."""

    guest_release: str
    guest_name: str
    guest_memory_bytes: int
    target_bytes: int
    host_bytes_before: int
    host_bytes_inflated: int
    host_bytes_after: int
    inflate_seconds: float  #: until the guest was done
    host_has_it_seconds: float | None  #: until its memory was the host's; None: some still waits
    host_waiting_bytes: int  #: given by the guest, and not the host's yet
    deflate_seconds: float
    inflate_cpu_seconds: float  #: until the host had it
    discard_calls: int
    guest_before: GuestView
    guest_inflated: GuestView
    guest_after: GuestView

    @property
    def given_back_bytes(self) -> int:
        """Host memory the balloon freed."""
        return self.host_bytes_before - self.host_bytes_inflated


@click.group(invoke_without_command=True)
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(256 << 20, 64 << 30),
    default="1G",
    show_default=True,
    help="Memory of the guest.",
)
@click.option(
    "--target",
    "target_bytes",
    type=SizeType(1 << 20, 64 << 30),
    help="Size of the balloon, memory the guest is to give; three quarters by default.",
)
@click.option(
    "--guest",
    "kind",
    type=click.Choice(["linux", "embedded"]),
    help="A real kernel, or our own; the real one if it is installed.",
)
@click.option("--hold", is_flag=True, help="Keep the guest running at the end, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@click.pass_context
def demo(
    context: click.Context,
    memory_bytes: int,
    target_bytes: int | None,
    kind: str | None,
    *,
    hold: bool,
    as_json: bool,
) -> None:
    """A guest gives memory back, and takes it again; or see `demo migrate`, `demo autopilot`.

    Starts a balloon device and a guest, fills the guest's memory and frees it inside the guest,
    inflates the balloon, deflates it, and measures what the host gets back.
    """
    if context.invoked_subcommand is not None:
        return
    target_bytes = memory_bytes * 3 // 4 if target_bytes is None else target_bytes
    if target_bytes >= memory_bytes:
        raise click.UsageError("--target: the balloon must be smaller than the guest's --memory")
    console = Console(stderr=as_json, highlight=False)
    with _machine(kind, memory_bytes, console) as machine:
        figures = _run(machine, memory_bytes, target_bytes, console)
        if as_json:
            extra = {"given_back_bytes": figures.given_back_bytes}
            click.echo(json.dumps(asdict(figures) | extra, indent=2))
        else:
            console.print(figures_table(figures))
        if figures.host_waiting_bytes:
            raise GuestError(
                f"{format_bytes(figures.host_waiting_bytes)} of what the guest gave are still not"
                " back with the host"
            )
        if hold:
            _hold(machine, console)


demo.add_command(migrate)
demo.add_command(autopilot)


def _machine(kind: str | None, memory_bytes: int, console: Console) -> Ballooned[Any]:
    """The guest that was asked for, or the best there is. Raises: GuestError."""
    if kind is None:
        kind = "linux"
        try:
            find_kernel_package()
        except GuestError as error:
            console.print(f"No real kernel can run here ({error});")
            console.print("so this is the embedded guest, a small kernel and driver of our own.")
            kind = "embedded"
    console.print(f"Starting a guest of {format_bytes(memory_bytes)} with a balloon ...")
    if kind == "linux":
        return BalloonedGuest(LinuxGuestSettings(memory_bytes), BalloonSettings())
    settings = EmbeddedGuestSettings(memory_bytes)
    return BalloonedEmbeddedGuest(settings, BalloonSettings())


def _run(
    machine: Ballooned[Any], memory_bytes: int, target_bytes: int, console: Console
) -> Figures:
    """Every step of the demonstration, each told as it happens. Raises: GuestError."""
    guest, device = machine.guest, machine.device
    console.print(f"{_name(guest)} is up; it uses and frees most of its memory ...")
    guest.use_memory(_FILL_PERCENT)
    view_before = GuestView.of(guest)
    before = _tell_held(device, console)

    cpu = time.process_time()
    inflated = _resize(machine, target_bytes, "Inflating", console)
    cpu = time.process_time() - cpu
    view_inflated = GuestView.of(guest)
    console.print(f"  {moments(inflated)}")
    during = _tell_held(device, console)

    deflated = _resize(machine, 0, "Deflating", console)
    console.print("The guest uses and frees its memory again ...")
    guest.use_memory(_FILL_PERCENT)
    after = _tell_held(device, console)
    return Figures(
        guest_release=guest.release,
        guest_name=_name(guest),
        guest_memory_bytes=memory_bytes,
        target_bytes=target_bytes,
        host_bytes_before=before.held_bytes,
        host_bytes_inflated=during.held_bytes,
        host_bytes_after=after.held_bytes,
        inflate_seconds=round(inflated.seconds, 4),
        host_has_it_seconds=_rounded(inflated.host_seconds),
        host_waiting_bytes=inflated.waiting_bytes,
        deflate_seconds=round(deflated.seconds, 4),
        inflate_cpu_seconds=round(cpu, 4),
        discard_calls=during.counters.discard_calls,
        guest_before=view_before,
        guest_inflated=view_inflated,
        guest_after=GuestView.of(guest),
    )


def _tell_held(device: DeviceControl, console: Console) -> Status:
    status = device.status()
    console.print(f"  the host holds {format_bytes(status.held_bytes)} for it")
    return status


def moments(inflated: Resized) -> str:
    """When the guest was done, and when the host was."""
    done = f"the guest was done after {inflated.seconds:.2f} s"
    if inflated.host_seconds is None:
        return f"{done}; of that {format_bytes(inflated.waiting_bytes)} still wait to be freed"
    return f"{done}, the host had its memory after {inflated.host_seconds:.2f} s"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _name(guest: Guest) -> str:
    return "The embedded guest" if guest.release == "embedded" else f"Linux {guest.release}"


def _resize(machine: Ballooned[Any], target_bytes: int, verb: str, console: Console) -> Resized:
    """Change the balloon under a progress display. Raises: GuestError, if the guest gets stuck."""
    pages = bytes_to_pages(target_bytes)
    start_pages = machine.device.status().actual_pages
    with _progress(verb, start_pages, pages, console) as show:
        result = machine.resize(pages, stalled_after_s=_STALLED_AFTER_S, progress=show)
    if not result.reached:
        reached = format_bytes(pages_to_bytes(result.actual_pages))
        raise GuestError(
            f"the guest's balloon stays at {reached}, {format_bytes(target_bytes)} were asked for;"
            " try a smaller --target"
        )
    return result


@contextmanager
def _progress(
    verb: str, start_pages: int, target_pages: int, console: Console
) -> Iterator[Callable[[int], None]]:
    """A live display of a balloon on its way; give it `actual` in balloon pages."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[size]} of balloon"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        distance = max(1, abs(target_pages - start_pages))
        task = progress.add_task(
            verb, total=distance, size=format_bytes(pages_to_bytes(start_pages))
        )

        def show(actual_pages: int) -> None:
            size = format_bytes(pages_to_bytes(actual_pages))
            progress.update(task, completed=abs(actual_pages - start_pages), size=size)

        yield show


def figures_table(figures: Figures) -> Table:
    """The figures for people."""
    table = Table(title=f"{figures.guest_name} and its balloon", title_justify="left")
    for heading in ("", "before", "inflated", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    views = (figures.guest_before, figures.guest_inflated, figures.guest_after)
    host = (figures.host_bytes_before, figures.host_bytes_inflated, figures.host_bytes_after)
    table.add_row("host holds for the guest", *map(format_bytes, host))
    table.add_row("guest's MemTotal", *(format_bytes(view.total_bytes) for view in views))
    table.add_row("guest's MemAvailable", *(format_bytes(view.available_bytes) for view in views))
    table.add_section()
    table.add_row("given back", "", format_bytes(figures.given_back_bytes), "")
    guest_s = (f"{figures.inflate_seconds:.2f} s", f"{figures.deflate_seconds:.2f} s")
    table.add_row("the guest was done after", "", *guest_s)
    host_s = figures.host_has_it_seconds
    if host_s is None:
        waiting = format_bytes(figures.host_waiting_bytes)
        table.add_row("the host had it after", "", f"never, {waiting} wait", "")
    else:
        per_second = format_bytes(int(figures.given_back_bytes / host_s))
        table.add_row("the host had it after", "", f"{host_s:.2f} s", "")
        table.add_row("how fast", "", f"{per_second}/s", "")
    table.add_row("cost: CPU of this process", "", f"{figures.inflate_cpu_seconds:.2f} s", "")
    table.add_row("cost: system calls to free", "", str(figures.discard_calls), "")
    return table


def _hold(machine: Ballooned[Any], console: Console) -> None:
    console.print(f"{_name(machine.guest)} keeps running; end with Ctrl-C.")
    while True:
        threading.Event().wait(_HOLD_INTERVAL_S)
