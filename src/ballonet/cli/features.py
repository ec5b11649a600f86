"""`ballonet features`: every feature of the balloon, observed on a real kernel just now."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table

from ballonet.cli.size import SizeType
from ballonet.errors import GuestError
from ballonet.guests.evidence import OBSERVATIONS, Evidence, guest_with_everything, observe
from ballonet.units import format_bytes

__all__ = ["features"]


@click.command()
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(256 << 20, 64 << 30),
    default="512M",
    show_default=True,
    help="Memory of the guest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list of objects.")
def features(memory_bytes: int, *, as_json: bool) -> None:
    """Observe every feature of the balloon on a real kernel.

    Boots a Linux guest whose device offers everything, makes it use one feature after the other,
    and shows what the kernel itself counts and logs.  Exit code 1 unless all were observed.
    """
    progress = Console(stderr=True, highlight=False)
    rows: list[Evidence] = []
    progress.print(f"Starting a Linux guest of {format_bytes(memory_bytes)} ...")
    with guest_with_everything(memory_bytes) as machine:
        release = machine.guest.release
        with progress.status("") as status:
            status.update(_next_one(0))
            for row in observe(machine):
                rows.append(row)
                status.update(_next_one(len(rows)))
    rows.sort(key=lambda row: row.bit)
    if as_json:
        click.echo(json.dumps([_as_object(row, release) for row in rows], indent=2))
    else:
        Console(highlight=False).print(_table(rows, release))
    missing = [str(row.feature.name) for row in rows if not row.observed]
    if missing:
        raise GuestError(f"not observed: {', '.join(missing)}")


def _next_one(done: int) -> str:
    names = [str(feature.name) for feature in OBSERVATIONS]
    return f"observing {names[done]} ..." if done < len(names) else "stopping the guest ..."


def _as_object(row: Evidence, release: str) -> dict[str, object]:
    return {
        "bit": row.bit,
        "name": row.feature.name,
        "offered": True,
        "negotiated": row.negotiated,
        "observed": row.observed,
        "evidence": row.evidence,
        "kernel": release,
    }


def _table(rows: list[Evidence], release: str) -> Table:
    table = Table(title=f"Features of the balloon on Linux {release}", title_justify="left")
    table.add_column("bit", justify="right")
    for heading in ("name", "offered", "negotiated"):
        table.add_column(heading, no_wrap=True)
    table.add_column("observed just now", ratio=1)
    for row in rows:
        seen = row.evidence if row.observed else f"NOT OBSERVED: {row.evidence}"
        negotiated = "yes" if row.negotiated else "no"
        table.add_row(str(row.bit), str(row.feature.name), "yes", negotiated, seen)
    return table
