"""`ballonet set`: how much memory a guest is to keep, and an honest word on how it went."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ballonet.cli.monitor_client import JSON_OPTION, MACHINE_ARGUMENT, run
from ballonet.cli.seconds import SecondsType
from ballonet.cli.size import SizeType
from ballonet.errors import GuestError
from ballonet.units import format_bytes
from ballonet.vms.addresses import connected
from ballonet.vms.change import Progress as ChangeProgress
from ballonet.vms.change import Verdict
from ballonet.vms.resize import Outcome, Resize

__all__ = ["outcome_in_words", "set"]

_PAUSED = "the VM is paused: the guest follows when it runs again"


@click.command()
@MACHINE_ARGUMENT
@click.argument("size", type=SizeType(1, 1 << 62), required=False)
@click.option("--min", "least", is_flag=True, help="Instead of SIZE: what the guest can live with.")
@click.option("--wait", is_flag=True, help="Wait until the guest has followed, and show how.")
@click.option(
    "--deadline",
    "deadline_s",
    type=SecondsType(),
    default="30s",
    show_default=True,
    help="How long to wait at most.",
)
@click.option("--force", is_flag=True, help="Ask also for less than the guest can live with.")
@JSON_OPTION
def set(  # noqa: A001 - the verb's name
    address: str,
    size: int | None,
    *,
    least: bool,
    wait: bool,
    deadline_s: float,
    force: bool,
    as_json: bool,
) -> None:
    """Set how much memory the guest keeps; the rest goes into its balloon.

    MACHINE is a name, as `ballonet list` shows it, or a socket.  Less than what the guest uses, by
    its statistics, and a margin is refused with exit code 1; so is less than 35 % of the memory of
    a guest that sends no statistics.  With --wait the exit code is 1 unless the size was reached,
    and a request that the guest cannot follow or suffers from is taken back.
    """
    if (size is None) != least:
        raise click.UsageError("either SIZE or --min")
    console = Console(stderr=as_json, highlight=False, markup=False)
    outcome = run(
        _set(address, size, console, force=force, deadline_s=deadline_s if wait else None)
    )
    if as_json:
        click.echo(json.dumps(_as_json(outcome)))
    if outcome.refused:
        raise GuestError(f"{outcome_in_words(outcome)}; --force asks for less")
    if not as_json:
        console.print(outcome_in_words(outcome), soft_wrap=True)
    if outcome.verdict not in (None, Verdict.REACHED):
        raise GuestError(f"the guest keeps {_size(outcome.actual_bytes)}")


async def _set(
    address: str, size: int | None, console: Console, *, force: bool, deadline_s: float | None
) -> Outcome:
    async with connected(address) as vm:
        with _display(console) as show:
            return await Resize(vm, size, show).run(force=force, deadline_s=deadline_s)


@contextmanager
def _display(console: Console) -> Iterator[Callable[[ChangeProgress], None]]:
    columns = (
        TextColumn("the guest keeps {task.fields[size]}"),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=off) as progress:
        task = progress.add_task("", total=1.0, size="", speed="")

        def show(now: ChangeProgress) -> None:
            eta = "" if now.eta_s is None else f", {now.eta_s:.0f} s left"
            progress.update(
                task,
                completed=now.fraction,
                size=format_bytes(now.now_bytes),
                speed=f"{format_bytes(int(now.bytes_per_s))}/s{eta}",
            )

        yield show


def _as_json(outcome: Outcome) -> dict[str, object]:
    floor = outcome.floor
    return {
        "verdict": _verdict(outcome),
        "why": outcome.why or None,
        "asked_bytes": outcome.asked_bytes,
        "wanted_bytes": outcome.wanted_bytes,
        "before_bytes": outcome.before_bytes,
        "actual_bytes": outcome.actual_bytes,
        "floor_bytes": None if floor is None else floor.floor_bytes,
        "used_bytes": None if floor is None else floor.used_bytes,
        "taken_back_to_bytes": outcome.taken_back_to_bytes,
        "paused": outcome.paused,
        "waited_s": outcome.waited_s,
    }


def _verdict(outcome: Outcome) -> str:
    if outcome.refused:
        return "refused"
    return "asked" if outcome.verdict is None else outcome.verdict.name.lower()


def outcome_in_words(outcome: Outcome) -> str:
    """The verdict on a request, in one line."""
    wanted, actual = format_bytes(outcome.wanted_bytes), _size(outcome.actual_bytes)
    if outcome.refused:
        return f"refused: {outcome.why}"
    if outcome.verdict is None:
        text = f"asked for {wanted}; the guest keeps {actual} now"
        text += f"; {_PAUSED}" if outcome.paused else ""
    elif outcome.verdict is Verdict.REACHED:
        text = f"reached: the guest keeps {actual}, after {outcome.waited_s} s"
    else:
        text = f"{_verdict(outcome)}: asked for {wanted}, the guest keeps {actual}; {outcome.why}"
    if outcome.taken_back_to_bytes is not None:
        text += f"; taken back: it is asked to keep {format_bytes(outcome.taken_back_to_bytes)} now"
    if outcome.asked_bytes > outcome.wanted_bytes:
        text += f"; {format_bytes(outcome.asked_bytes)} are more than it has"
    return text


def _size(size_bytes: int | None) -> str:
    return "a size that is not known" if size_bytes is None else format_bytes(size_bytes)
