"""`ballonet hints`: one free page hint round, and what it brought."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from ballonet.cli.size import SizeType
from ballonet.control.device_control import DeviceControl, controlling
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.hinting import HintResult, run_hint_round
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.units import format_bytes
from ballonet.vhost_user.listener import listening_socket

__all__ = ["hints"]

_POLL_S: Final = 0.2


@click.command()
@click.argument("socket_path", metavar="[SOCKET]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(128 << 20, 64 << 30),
    default="512M",
    show_default=True,
    help="Memory of the guest that is started if no SOCKET is given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def hints(socket_path: Path | None, memory_bytes: int, *, as_json: bool) -> None:
    """Ask a guest for free page hints, as a migration would, and show what came.

    With SOCKET, serves a device there, waits for a VMM to connect, and goes on serving after the
    round until the guest leaves.  Without, starts a Linux guest.
    """
    console = Console(stderr=as_json, highlight=False)
    with ExitStack() as stack:
        if socket_path is None:
            console.print(f"Starting a Linux guest of {format_bytes(memory_bytes)} ...")
            settings = LinuxGuestSettings(memory_bytes)
            device = stack.enter_context(BalloonedGuest(settings, BalloonSettings())).device
        else:
            device = stack.enter_context(_guest_at(socket_path, console))
        result = run_hint_round(device)
        if as_json:
            extra = {"is_whole_again": result.is_whole_again}
            click.echo(json.dumps(asdict(result) | extra, indent=2))
        else:
            console.print(_table(result))
        if not result.is_whole_again:
            raise GuestError("the guest did not get its memory back")
        if socket_path is not None:
            console.print("The guest goes on; this ends when it leaves, or with Ctrl-C.")
            _wait_while(lambda: device.status().connected)


@contextmanager
def _guest_at(path: Path, console: Console) -> Iterator[DeviceControl]:
    """A device at a socket, once a driver uses it."""
    with (
        listening_socket(path) as sock,
        controlling(BalloonSettings(), sock) as control,
    ):
        console.print(f"Waiting for a guest at {path} ...")
        _wait_while(lambda: not control.status().running)
        yield control


def _wait_while(condition: Callable[[], bool]) -> None:
    while condition():
        threading.Event().wait(_POLL_S)


def _table(result: HintResult) -> Table:
    """The figures for people."""
    table = Table(title=f"Hint round {result.cmd_id:#x}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("hinted", format_bytes(result.hinted_bytes))
    table.add_row("in blocks", f"{result.blocks}, the largest {format_bytes(result.largest_bytes)}")
    table.add_row("within", f"{result.seconds * 1000:.1f} ms")
    if result.seconds:
        table.add_row("", f"{format_bytes(int(result.hinted_bytes / result.seconds))}/s")
    for name, size in (
        ("free in the guest before", result.free_before_bytes),
        ("while it held the hinted pages", result.free_during_bytes),
        ("after DONE", result.free_after_bytes),
    ):
        table.add_row(
            name, "unknown, it sends no statistics" if size is None else format_bytes(size)
        )
    return table
