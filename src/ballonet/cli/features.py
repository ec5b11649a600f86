"""`ballonet features`: every feature of a balloon, observed on a real kernel just now."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from ballonet.cli.size import SizeType
from ballonet.errors import GuestError
from ballonet.guests.evidence import Evidence, Witness
from ballonet.guests.hyperv_evidence import hyperv_witness
from ballonet.guests.virtio_evidence import virtio_witness
from ballonet.guests.vmware_evidence import vmware_witness
from ballonet.units import format_bytes

__all__ = ["features"]

#: Who looks at a balloon, by its kind, given the guest's memory in bytes.
_WITNESSES: Final[Mapping[str, Callable[[int], AbstractContextManager[Witness]]]] = {
    "virtio": virtio_witness,
    "hyperv": hyperv_witness,
    "vmware": vmware_witness,
}


@click.command()
@click.option(
    "--balloon",
    "kind",
    type=click.Choice(list(_WITNESSES)),
    default="virtio",
    show_default=True,
    help="Whose balloon.",
)
@click.option(
    "--memory",
    "memory_bytes",
    type=SizeType(256 << 20, 64 << 30),
    default="512M",
    show_default=True,
    help="Memory of the guest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list of objects.")
def features(kind: str, memory_bytes: int, *, as_json: bool) -> None:
    """Observe every feature of a balloon on a real kernel.

    Boots a Linux guest whose host offers everything, makes it use one feature after the other,
    and shows what the kernel itself counts and logs.  Exit code 1 unless all were observed.
    """
    progress = Console(stderr=True, highlight=False)
    rows: list[Evidence] = []
    progress.print(f"Starting a Linux guest of {format_bytes(memory_bytes)} ...")
    with _WITNESSES[kind](memory_bytes) as witness, progress.status("") as status:
        subject = f"{witness.subject} on Linux {witness.release}"
        release = witness.release
        status.update(_next_one(witness.names, 0))
        for row in witness.observe():
            rows.append(row)
            status.update(_next_one(witness.names, len(rows)))
    rows.sort(key=_by_bit)
    if as_json:
        click.echo(json.dumps([_as_object(row, release) for row in rows], indent=2))
    else:
        Console(highlight=False).print(_table(rows, subject))
    missing = [row.name for row in rows if not row.observed]
    if missing:
        raise GuestError(f"not observed: {', '.join(missing)}")


def _next_one(names: Sequence[str], done: int) -> str:
    return f"observing {names[done]} ..." if done < len(names) else "stopping the guest ..."


def _by_bit(row: Evidence) -> tuple[bool, int]:
    return row.bit is None, row.bit or 0


def _as_object(row: Evidence, release: str) -> dict[str, object]:
    return {
        "bit": row.bit,
        "name": row.name,
        "offered": row.offered,
        "negotiated": row.negotiated,
        "observed": row.observed,
        "evidence": row.evidence,
        "kernel": release,
    }


def _table(rows: list[Evidence], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("bit", justify="right")
    for heading in ("name", "offered", "negotiated"):
        table.add_column(heading, no_wrap=True)
    table.add_column("observed just now", ratio=1)
    for row in rows:
        seen = row.evidence if row.observed else f"NOT OBSERVED: {row.evidence}"
        bit = "" if row.bit is None else str(row.bit)
        table.add_row(bit, row.name, _word(row.offered), _word(row.negotiated), seen)
    return table


def _word(is_true: bool | None) -> str:  # noqa: FBT001 - of a row
    return {True: "yes", False: "no", None: ""}[is_true]
