"""`ballonet snapshot`: the memory of a running User-Mode Linux, in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ballonet.cli.guest import GUEST_SIZE
from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.guests.snapshot import Snapshot, Step, take_snapshot
from ballonet.guests.squeeze import squeezed
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.virtio.features import DEFAULT_OFFER, Feature

__all__ = ["snapshot"]

#: Of what the guest calls available, used and freed before, as in a guest that has run for a while.
_USE_PERCENT = 90


@click.command()
@click.argument("words", metavar="[GUEST] FILE", nargs=-1, required=True)
@click.option(
    "--squeeze",
    is_flag=True,
    help="Have the guest put its free memory into its balloon meanwhile; not with GUEST.",
)
@click.option(
    "--memory",
    "memory_bytes",
    type=GUEST_SIZE,
    default="512M",
    show_default=True,
    help="Memory of the guest that is started if no GUEST is given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def snapshot(words: tuple[str, ...], memory_bytes: int, *, squeeze: bool, as_json: bool) -> None:
    """Write a memory snapshot of a running User-Mode Linux to FILE.

    GUEST is the process of its kernel; without one, starts a guest that uses and frees most of
    its memory.  The guest runs on while it is copied, and stands still for a moment at the end.
    A memory snapshot can be checked and compared (`ballonet image`); it cannot be restored, since
    a User-Mode Linux is also processes that are not in its memory.
    """
    guest, path = _read_words(words)
    if guest is not None and squeeze:
        raise click.UsageError(
            "--squeeze: not with GUEST, whose balloon is somebody else's; `ballonet set` it before"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise click.UsageError(f"FILE: {path} is no name of a file in a folder that exists")
    console = Console(stderr=as_json, highlight=False)
    squeezed_pages = None
    with ExitStack() as stack:
        if guest is None:
            machine = stack.enter_context(_guest(memory_bytes, console))
            guest = machine.guest.pid
            if squeeze:
                console.print("It puts its free memory into its balloon ...")
                squeezed_pages = stack.enter_context(squeezed(machine))
        show = stack.enter_context(_display(console))
        result = take_snapshot(guest, path, show)
    if as_json:
        extra = {"path": str(path), "guest_pid": guest, "balloon_pages": squeezed_pages}
        click.echo(json.dumps(asdict(result) | extra, indent=2))
    else:
        console.print(_table(result, path, squeezed_pages))


def _read_words(words: tuple[str, ...]) -> tuple[int | None, Path]:
    """The guest, if there is one, and the file. Raises: UsageError."""
    *guests, path = words
    if len(guests) > 1:
        raise click.UsageError(f"expected [GUEST] FILE, got {len(words)} words")
    if not guests:
        return None, Path(path)
    return GUEST.convert(guests[0], None, None), Path(path)


class GuestType(click.ParamType[int]):
    """The process of a kernel."""

    name = "guest"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,  # noqa: ARG002 - has the same name in all verbs
        ctx: click.Context | None,
    ) -> int:
        """Read the number; wrong use if it is none."""
        text = str(value)
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
            raise click.UsageError(f"GUEST: got {text!r}, expected the number of a process", ctx)
        return int(text)


GUEST = GuestType()


@contextmanager
def _guest(memory_bytes: int, console: Console) -> Iterator[BalloonedGuest]:
    console.print(f"Starting a Linux guest of {format_bytes(memory_bytes)} ...")
    balloon = BalloonSettings(DEFAULT_OFFER | Feature.DEFLATE_ON_OOM)
    with BalloonedGuest(LinuxGuestSettings(memory_bytes), balloon) as machine:
        console.print(
            f"Linux {machine.guest.release} is up; it uses and frees most of its memory ..."
        )
        machine.guest.use_memory(_USE_PERCENT)
        yield machine


@contextmanager
def _display(console: Console) -> Iterator[Callable[[Step, int, int], None]]:
    """A live display of the steps."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[size]}"),
        TimeElapsedColumn(),
    )
    if not console.is_terminal:
        yield lambda *_: None
        return
    with Progress(*columns, console=console, transient=True) as progress:
        task: TaskID = progress.add_task("", total=None, size="")

        def show(step: Step, done_pages: int, pages: int) -> None:
            size = format_bytes(pages_to_bytes(done_pages))
            progress.update(
                task, description=step.value, completed=done_pages, total=pages, size=size
            )

        yield show


def _table(result: Snapshot, path: Path, squeezed_pages: int | None) -> Table:
    """The figures for people."""
    table = Table(title=f"Memory snapshot {path}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    *running, last = result.passes
    copied = sum(one.changed_pages for one in running)
    table.add_row("the host held for it", format_bytes(pages_to_bytes(result.held_pages)))
    if squeezed_pages is not None:
        table.add_row("in its balloon", format_bytes(pages_to_bytes(squeezed_pages)))
    table.add_row("pages in the image", format_bytes(pages_to_bytes(result.pages)))
    table.add_row("the image on the disk", format_bytes(result.image_bytes))
    table.add_row(
        f"copied while it ran, in {len(running)} passes", format_bytes(pages_to_bytes(copied))
    )
    table.add_row("copied while it stood", format_bytes(pages_to_bytes(last.changed_pages)))
    table.add_row("it stood for", f"{result.stopped_seconds * 1000:.0f} ms")
    table.add_row("of that until nothing ran", f"{result.still_seconds * 1000:.0f} ms")
    table.add_row("in all", f"{result.seconds:.2f} s")
    return table
