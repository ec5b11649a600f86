"""`ballonet demo migrate`: a guest under load goes to another process, pass by pass."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ballonet.cli.size import SizeType
from ballonet.errors import GuestError, MigrationError
from ballonet.guests.machine_process import MachineProcess, MachineSettings
from ballonet.guests.processes import PrivateDirectory
from ballonet.units import format_bytes, pages_to_bytes

__all__ = ["migrate"]

_BAR: Final = 24
_LOOK_S: Final = 0.05
_ENDED: Final = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class MoveFigures:
    """What one move took."""

    guest_memory_bytes: int
    balloon_bytes: int
    free_bytes: int
    hinted_bytes: int
    sent_bytes: int
    total_ms: int
    downtime_ms: int
    passes: list[dict[str, Any]]
    compared_pages: int  #: by the destination, with what the source had
    balloon_bytes_after: int
    free_bytes_after: int


@click.command()
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(128 << 20, 16 << 30),
    default="512M",
    show_default=True,
    help="Memory of the guest.",
)
@click.option("--steps", is_flag=True, help="Print every step of it.")
@click.option("--no-hints", is_flag=True, help="Send what is free, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def migrate(memory_bytes: int, *, steps: bool, no_hints: bool, as_json: bool) -> None:
    """A guest under load goes to another process, while it runs.

    Starts two machines, each with a balloon device; the guest of the first, a kernel of our own,
    works, has a balloon and much that is free.  It moves to the second, and all that was sent is
    compared there before it goes on.
    """
    console = Console(stderr=as_json, highlight=False)
    with (
        PrivateDirectory("ballonet-", mark="{}/") as directory,
        MachineProcess(directory, "source", MachineSettings(memory_bytes, "web")) as source,
        MachineProcess(
            directory, "destination", MachineSettings(memory_bytes, waits_for_guest=True)
        ) as destination,
    ):
        figures = _move(source, destination, memory_bytes, console, hints=not no_hints)
        if steps:
            _tell_steps(source, console)
    if as_json:
        click.echo(json.dumps(asdict(figures), indent=2))
    else:
        _tell_end(figures, console)


def _move(
    source: MachineProcess,
    destination: MachineProcess,
    memory_bytes: int,
    console: Console,
    *,
    hints: bool,
) -> MoveFigures:
    """Every step, each told as it happens. Raises: GuestError, MigrationError."""
    balloon_bytes = memory_bytes // 8
    console.print(
        f"A guest of {format_bytes(memory_bytes)} works, and frees much of what it had ..."
    )
    source.ask("use_memory", percent=70)
    source.ask("hog", size=memory_bytes // 8)
    source.set_balloon(balloon_bytes)
    free_bytes = source.ask("meminfo")["MemFree"]
    console.print(
        f"  {format_bytes(balloon_bytes)} are in its balloon, {format_bytes(free_bytes)} are free"
    )
    console.print("It moves to another process, and goes on working ...")
    look = _migrate(source, destination.uri, hints=hints)
    console.print(_table(look["x-ballonet-passes"], memory_bytes))
    after = destination.ask("driver"), destination.ask("meminfo")
    destination.ask("release_hogs")  # which looks at every page of theirs first
    ram = look["ram"]
    return MoveFigures(
        guest_memory_bytes=memory_bytes,
        balloon_bytes=balloon_bytes,
        free_bytes=free_bytes,
        hinted_bytes=pages_to_bytes(ram["x-ballonet-hinted"]),
        sent_bytes=ram["transferred"],
        total_ms=look["total-time"],
        downtime_ms=look["downtime"],
        passes=look["x-ballonet-passes"],
        compared_pages=ram["x-ballonet-verified"],
        balloon_bytes_after=pages_to_bytes(after[0]["actual_pages"]),
        free_bytes_after=after[1]["MemFree"],
    )


def _migrate(source: MachineProcess, uri: str, *, hints: bool) -> dict[str, Any]:
    """Returns the last answer of `query-migrate`. Raises: MigrationError, GuestError."""
    wanted = {"x-ballonet-hints": hints, "x-ballonet-verify": True}
    source.execute(
        "migrate-set-capabilities",
        capabilities=[{"capability": name, "state": state} for name, state in wanted.items()],
    )
    source.execute("migrate", uri=uri)
    while True:
        look: dict[str, Any] = source.execute("query-migrate")
        if look["status"] == "completed":
            return look
        if look["status"] in _ENDED:
            raise MigrationError(str(look.get("error-desc", look["status"])))
        time.sleep(_LOOK_S)


def _tell_steps(source: MachineProcess, console: Console) -> None:
    for step in source.execute("query-migrate")["x-ballonet-steps"]:
        console.print(f"  {step['at_ns'] / 1e9:7.3f} s  {step['what']}")


def _table(passes: list[dict[str, Any]], memory_bytes: int) -> Table:
    """A row for each pass."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in (
        "pass",
        f"of {format_bytes(memory_bytes)}",
        "sent",
        "free",
        "written",
    ):
        table.add_column(heading, justify="left" if heading[:2] in ("pa", "of") else "right")
    for one in passes:
        is_last = one is passes[-1]
        hinted_bytes = pages_to_bytes(one["hinted_pages"])
        table.add_row(
            "stopped" if is_last else str(one["number"]),
            _bar(one["sent_bytes"], hinted_bytes, memory_bytes),
            format_bytes(one["sent_bytes"]),
            format_bytes(hinted_bytes),
            "" if is_last else format_bytes(pages_to_bytes(one["dirty_pages"])),
        )
    return table


def _bar(sent_bytes: int, free_bytes: int, memory_bytes: int) -> Text:
    """Sent, left out because it is free, not there or not written."""
    sent = _columns(sent_bytes, memory_bytes)
    free = min(_columns(free_bytes, memory_bytes), _BAR - sent)
    bar = Text("█" * sent, "cyan") + Text("░" * free, "green")
    return bar.append("·" * (_BAR - sent - free), "dim")


def _columns(size: int, memory_bytes: int) -> int:
    """Of the bar; what is there is seen."""
    return min(_BAR, -(-size * _BAR // memory_bytes))


def _tell_end(figures: MoveFigures, console: Console) -> None:
    """Raises: GuestError, if the guest lost its balloon."""
    console.print(
        f"{format_bytes(figures.sent_bytes)} of {format_bytes(figures.guest_memory_bytes)} were"
        f" sent in {figures.total_ms / 1000:.1f} s; the guest stood still for"
        f" {figures.downtime_ms} ms"
    )
    compared = format_bytes(pages_to_bytes(figures.compared_pages))
    console.print(f"{compared}, all but what was free, were compared there: every byte is right")
    console.print(
        f"There it has {format_bytes(figures.balloon_bytes_after)} in its balloon, and"
        f" {format_bytes(figures.free_bytes_after)} free"
    )
    if figures.balloon_bytes_after != figures.balloon_bytes:
        raise GuestError("the guest's balloon has another size at the destination")
