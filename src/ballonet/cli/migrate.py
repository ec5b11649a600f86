"""`ballonet migrate`: a machine goes to another place, and an honest word on how it went."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ballonet.cli.monitor_client import JSON_OPTION, complete_machines, run
from ballonet.cli.seconds import SecondsType
from ballonet.cli.size import SizeType
from ballonet.errors import MigrationError, SettingsError
from ballonet.units import format_bytes
from ballonet.vms.addresses import connected
from ballonet.vms.change import Progress as ChangeProgress
from ballonet.vms.migration import Migration, MigrationViewer
from ballonet.vms.migration_progress import MigrationOutcome, MigrationProgress
from ballonet.vms.migration_setup import DOWNTIME_MOST_MS, MigrationRequest

__all__ = ["migrate"]

_BANDWIDTH_MOST: Final = 1 << 40
_BAR_LETTERS: Final = 10  #: so that all is seen on a terminal of 80


@click.command()
@click.argument("address", metavar="VM", shell_complete=complete_machines)
@click.argument("uri")
@click.option("--downtime", "downtime_s", type=SecondsType(), help="How long it may stand still.")
@click.option(
    "--bandwidth",
    "bandwidth_bytes",
    type=SizeType(1 << 10, _BANDWIDTH_MOST),
    help="At most so much each second.",
)
@click.option("--timeout", "timeout_s", type=SecondsType(), help="How long it may take.")
@click.option(
    "--on-timeout",
    type=click.Choice(["cancel", "force"]),
    default="cancel",
    show_default=True,
    help="Then end it, or have the guest stand still for the rest, however long that takes.",
)
@click.option("--postcopy", is_flag=True, help="The guest goes on there after the first pass.")
@click.option("--resume", is_flag=True, help="Go on with a post-copy that was interrupted.")
@click.option("--squeeze", is_flag=True, help="First take what the guest does not need.")
@click.option("--no-hints", is_flag=True, help="Send also what is free; only ballonet's guests.")
@click.option("--verify", is_flag=True, help="Compare all memory; only ballonet's guests.")
@JSON_OPTION
def migrate(
    address: str,
    uri: str,
    *,
    downtime_s: float | None,
    bandwidth_bytes: int | None,
    timeout_s: float | None,
    on_timeout: str,
    as_json: bool,
    **flags: bool,
) -> None:
    """Move a running VM to where another waits for it.

    VM is a QEMU's name, or a QMP socket, of a guest of ballonet's too; URI is where the destination
    waits, as `unix:PATH` or `tcp:HOST:PORT`.  Until the guest has gone, whatever goes wrong, or
    Ctrl-C, leaves it running here.  The exit code is 1 unless the guest is at the destination.

    --squeeze fills the balloon first, and has the guest take its memory back when it goes.
    With --postcopy nothing ends it once the guest has gone, and free page hints do nothing.  If the
    connection breaks then, the guest waits: --resume goes on, over another one.
    """
    request = MigrationRequest(
        uri,
        downtime_ms=_milliseconds(downtime_s),
        bandwidth_bytes_per_s=bandwidth_bytes,
        timeout_s=timeout_s,
        forces=on_timeout == "force",
        postcopy=flags["postcopy"],
        squeezes=flags["squeeze"],
        hints=not flags["no_hints"],
        verifies=flags["verify"],
        resumes=flags["resume"],
    )
    console = Console(stderr=True, highlight=False, markup=False)
    with _display(console) as viewer:
        outcome = run(Migration(lambda: connected(address), request, viewer).run())
    if as_json:
        click.echo(json.dumps(_as_json(outcome)))
    if not outcome.is_completed:
        raise MigrationError(outcome.why)
    if not as_json:
        click.echo(_in_words(outcome))


def _milliseconds(downtime_s: float | None) -> int | None:
    """Raises: SettingsError."""
    if downtime_s is None:
        return None
    downtime_ms = round(downtime_s * 1000)
    if not 1 <= downtime_ms <= DOWNTIME_MOST_MS:
        raise SettingsError("--downtime", f"{downtime_s:g}s", "between 1ms and 2000s")
    return downtime_ms


@contextmanager
def _display(console: Console) -> Iterator[MigrationViewer]:
    """Shows how it goes on a terminal, and lines that matter everywhere."""
    columns = (
        TextColumn("{task.fields[what]}"),
        BarColumn(_BAR_LETTERS),
        TextColumn("{task.fields[speed]}"),
    )
    off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=off) as progress:
        task = progress.add_task("", total=1.0, what="", speed="")

        def show(now: MigrationProgress) -> None:
            progress.update(task, completed=now.fraction, what=_where(now), speed=_speed(now))

        def squeezing(now: ChangeProgress) -> None:
            text = f"squeezing: the guest keeps {format_bytes(now.now_bytes)}"
            progress.update(task, completed=now.fraction, what=text, speed="")

        yield MigrationViewer(show, squeezing, lambda line: console.print(line, soft_wrap=True))


def _where(now: MigrationProgress) -> str:
    look = now.look
    if not look.total_bytes:
        return look.status
    step = f"pass {look.passes}" if look.status == "active" else look.status
    return f"{step}: {format_bytes(look.remaining_bytes)} left"


def _speed(now: MigrationProgress) -> str:
    parts = [] if now.eta_s is None else [f"{now.eta_s:.0f} s left"]
    parts.append(f"{format_bytes(int(now.sent_bytes_per_s))}/s sent")
    if now.look.dirty_bytes_per_s:
        parts.append(f"{format_bytes(now.look.dirty_bytes_per_s)}/s written")
    return ", ".join(parts)


def _in_words(outcome: MigrationOutcome) -> str:
    look = outcome.look
    text = f"moved: {format_bytes(look.transferred_bytes)} sent"
    if look.total_time_s is not None:
        text += f" in {look.total_time_s:.1f} s"
    text += f", {look.passes} passes" if look.passes else ""
    if look.downtime_s is not None:
        text += f"; the guest stood still for {look.downtime_s * 1000:.0f} ms"
    if outcome.size_put_back_at is not None:
        text += f"; its size is put back at the {outcome.size_put_back_at}"
    return text


def _as_json(outcome: MigrationOutcome) -> dict[str, object]:
    return asdict(outcome.look) | {
        "reason": outcome.look.reason or None,
        "why": outcome.why,
        "timed_out": outcome.timed_out,
        "source_runs": outcome.source_runs,
        "squeezed_to_bytes": outcome.squeezed_to_bytes,
        "size_put_back_at": outcome.size_put_back_at,
    }
