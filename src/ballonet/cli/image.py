"""`ballonet image`: look at memory snapshots."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from ballonet.cli.snapshot import GuestType
from ballonet.guests.stopping import is_stopped
from ballonet.guests.uml_memory import uml_memory
from ballonet.memory.runs import PageRuns
from ballonet.migration.image import BLOCK_PAGES
from ballonet.migration.image_check import check_image, diff_image
from ballonet.migration.image_file import ImageReader
from ballonet.units import format_bytes, pages_to_bytes

__all__ = ["image"]

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_FILE = click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
#: Of what differs, as many runs as fit a screen.
_ROWS: Final = 20


@click.group()
def image() -> None:
    """Look at memory snapshots."""


@image.command()
@_FILE
@_JSON
def check(path: Path, *, as_json: bool) -> None:
    """Check that an image is whole, by all its checksums.

    Exit code 1 if it is not.
    """
    console = Console(stderr=as_json, highlight=False, markup=False)
    with ImageReader(path) as reader:
        layout = reader.layout
        with _display("checking", layout.pages, console) as show:
            found = check_image(reader, show)
        if as_json:
            fields: dict[str, object] = {
                "path": str(path),
                "is_whole": found.is_whole,
                "kind": layout.kind,
                "name": layout.name,
                "address_bytes": pages_to_bytes(layout.pages),
                "pages": found.pages,
                "image_bytes": reader.held_bytes,
                "damaged_block_indexes": found.damaged,
                "is_tables_damaged": found.tables_damaged,
            }
            click.echo(json.dumps(fields, indent=2))
    if found.is_whole:
        if not as_json:
            size = format_bytes(pages_to_bytes(found.pages))
            console.print(f"whole: {size} of memory, {layout.kind}, {layout.name}")
        return
    if found.tables_damaged:
        click.echo("ballonet: damaged: its tables have another checksum", err=True)
    else:
        size = format_bytes(pages_to_bytes(len(found.damaged) * BLOCK_PAGES))
        at = pages_to_bytes(found.damaged[0] * BLOCK_PAGES)
        click.echo(f"ballonet: damaged: {size}, the first of it at {at:#x} of memory", err=True)
    sys.exit(1)


@image.command()
@_FILE
@click.argument("guest", type=GuestType())
@_JSON
def diff(path: Path, guest: int, *, as_json: bool) -> None:
    """Compare an image with the memory of a User-Mode Linux as it is now.

    GUEST is the process of its kernel.  Exit code 1 if any page differs, as most do soon in a guest
    that runs.
    """
    console = Console(stderr=as_json, highlight=False, markup=False)
    with ImageReader(path) as reader, uml_memory(guest) as memory:
        with _display("comparing", memory.pages, console) as show:
            runs = diff_image(reader, memory, show)
        still = is_stopped(guest)
    if as_json:
        listed = list(runs.pairs())
        fields = {"path": str(path), "guest_pid": guest, "is_stopped": still}
        fields |= {"differing_pages": runs.total_pages, "runs": listed}
        click.echo(json.dumps(fields))
    else:
        size = format_bytes(pages_to_bytes(runs.total_pages))
        text = f"{runs.total_pages} pages differ ({size}, in {len(runs.pages)} runs)"
        console.print(text + ("" if still else "; the guest runs and goes on writing"))
        if runs.total_pages:
            console.print(_table(runs))
    sys.exit(bool(runs.total_pages))


def _table(runs: PageRuns) -> Table:
    """The first ones of what differs."""
    table = Table("from", "size")
    firsts, pages = runs.first_pfns[:_ROWS].tolist(), runs.pages[:_ROWS].tolist()
    for first, count in zip(firsts, pages, strict=True):
        table.add_row(f"{pages_to_bytes(first):#x}", format_bytes(pages_to_bytes(count)))
    if len(runs.pages) > _ROWS:
        table.add_row("...", f"{len(runs.pages) - _ROWS} more")
    return table


@contextmanager
def _display(what: str, pages: int, console: Console) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    if not console.is_terminal:
        yield lambda _: None
        return
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=pages)
        yield lambda done: progress.update(task, completed=done)
