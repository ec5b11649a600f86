"""`ballonet autopilot`: what the autopilot decides and why, and what it is told to do."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.cells import cell_len

from ballonet.cli.agent_monitor import AGENT_DIRECTORY_OPTION, answer_of_agent
from ballonet.cli.autopilot_replay import replay
from ballonet.cli.cells import fit, on_one_line
from ballonet.cli.monitor_client import JSON_OPTION, complete_machines, run
from ballonet.cli.seconds import SecondsType
from ballonet.cli.size import SizeType
from ballonet.units import format_bytes

__all__ = ["autopilot"]

_SIZE_MOST: Final = 1 << 62
_LOOK_S: Final = 0.5
#: Of a machine: what is told, and what it is called here.
_KEYS: Final = ("memory", "actual", "wanted", "need")
_SIZES: Final = ("memory", "keeps", "asked for", "needs")
_VM: Final = click.argument("vm", metavar="MACHINE", shell_complete=complete_machines)


@click.group()
def autopilot() -> None:
    """See what the autopilot of this host decides and why, and tell it what to do.

    It is a part of `ballonet agent`.  Until `enable = true` stands in [autopilot] of its
    configuration it tries only: everything is decided and shown, and no machine is asked for
    anything.
    """


@autopilot.command()
@AGENT_DIRECTORY_OPTION
@JSON_OPTION
def status(directory: Path | None, *, as_json: bool) -> None:
    """Show the host, every machine with what it needs and why it stays or moves, and alarms."""
    told = _ask(directory, "x-ballonet-query-autopilot")
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    alarms = (f"alarm: {on_one_line(one)}" for one in told["alarms"])
    for line in (*_heading(told), *(_lines(told["vms"]) if told["vms"] else ()), *alarms):
        click.echo(line)


@autopilot.command()
@_VM
@click.option("--last", type=click.IntRange(1, 100), default=10, help="So many decisions; 10.")
@AGENT_DIRECTORY_OPTION
@JSON_OPTION
def why(vm: str, last: int, directory: Path | None, *, as_json: bool) -> None:
    """Say why a machine is asked for what it is, and the last decisions that changed something."""
    told = _ask(directory, "x-ballonet-autopilot-why", vm=vm, last=last)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    now = told["now"]
    if now is None:
        click.echo(f"{told['vm']}: its sizes are not known yet")
        return
    click.echo(f"{told['vm']}, {now['state']}: {_decision(now)}")
    for one in told["last"]:
        click.echo(f"  {now['at'] - one['at']:7.1f} s ago  {_decision(one)}")


@autopilot.command()
@_VM
@AGENT_DIRECTORY_OPTION
def pause(vm: str, directory: Path | None) -> None:
    """Leave a machine alone, until it is resumed; what it was asked for last stands."""
    _ask(directory, "x-ballonet-autopilot-pause", vm=vm)


@autopilot.command()
@_VM
@AGENT_DIRECTORY_OPTION
def resume(vm: str, directory: Path | None) -> None:
    """Leave a machine alone no more."""
    _ask(directory, "x-ballonet-autopilot-resume", vm=vm)


@autopilot.command(name="dry-run")
@click.option("--off", is_flag=True, help="Carry out again what is decided.")
@AGENT_DIRECTORY_OPTION
def dry_run(directory: Path | None, *, off: bool) -> None:
    """Go on deciding, and ask no machine for anything; what they were asked for last stands."""
    _ask(directory, "x-ballonet-autopilot-dry-run", on=not off)


@autopilot.command()
@click.argument("size", type=SizeType(1, _SIZE_MOST))
@click.option(
    "--deadline", "deadline_s", type=SecondsType(), default="60s", help="Wait no longer; 60s."
)
@click.option(
    "--keep", "keep_s", type=SecondsType(), default="10m", help="Keep it for so long; 10m."
)
@AGENT_DIRECTORY_OPTION
@JSON_OPTION
def reserve(
    size: int, deadline_s: float, keep_s: float, directory: Path | None, *, as_json: bool
) -> None:
    """Have SIZE of the host's memory free for a machine that is to start here.

    Returns when it is there, or fails when the deadline is over; it is kept in either case, until
    it is released or the time of --keep is over.  Release it when the machine has started.
    """
    seconds = max(1, round(deadline_s + keep_s))
    told, waited_s = run(_reserve(directory, size, seconds, deadline_s))
    left_s = told["seconds-until-reserved"]
    missing = max(0, -told["host"]["free"]) if told["host"] else size
    if as_json:
        fields = {"size_bytes": size, "missing_bytes": missing, "waited_s": round(waited_s, 3)}
        click.echo(json.dumps(fields | {"eta_s": left_s}))
    elif not missing:
        click.echo(f"{format_bytes(size)} are free after {waited_s:.1f} s")
    if missing:
        more = (
            "all machines together cannot give that" if left_s is None else f"{left_s:.0f} s more"
        )
        raise click.ClickException(
            f"{format_bytes(missing)} of {format_bytes(size)} are missing after {waited_s:.0f} s"
            f" ({more}); `ballonet autopilot release` gives it up"
        )


@autopilot.command()
@AGENT_DIRECTORY_OPTION
def release(directory: Path | None) -> None:
    """Keep what was reserved no more."""
    _ask(directory, "x-ballonet-autopilot-release")


autopilot.add_command(replay)


def _ask(directory: Path | None, command: str, **arguments: object) -> Any:  # noqa: ANN401 - what the command returns
    return run(answer_of_agent(directory, command, **arguments))


async def _reserve(
    directory: Path | None, size: int, seconds: int, deadline_s: float
) -> tuple[dict[str, Any], float]:
    """What was told last, and after how long."""
    command = "x-ballonet-query-autopilot"
    told = await answer_of_agent(directory, command)
    if told["dry-run"]:
        raise click.ClickException("the autopilot tries only, and asks no machine for memory")
    await answer_of_agent(directory, "x-ballonet-autopilot-reserve", size=size, seconds=seconds)
    begun_s, before = time.monotonic(), told["round"]
    while True:
        told = await answer_of_agent(directory, command)
        waited_s = time.monotonic() - begun_s
        is_decided = told["round"] > before  # a round has seen it
        if (is_decided and told["host"]["free"] >= 0) or waited_s > deadline_s:
            return told, waited_s
        _show_progress(told, size)
        await asyncio.sleep(_LOOK_S)


def _show_progress(told: dict[str, Any], size: int) -> None:
    if sys.stderr.isatty() and told["host"]:
        missing, left_s = max(0, -told["host"]["free"]), told["seconds-until-reserved"]
        more = "" if left_s is None else f", about {left_s:.0f} s more"
        text = f"{format_bytes(max(0, size - missing))} of {format_bytes(size)}{more}"
        click.echo(f"\r\x1b[K{text}\r", nl=False, err=True)


def _heading(told: dict[str, Any]) -> Sequence[str]:
    does = "only tries (dry run): no machine is asked for anything" if told["dry-run"] else "acts"
    lines = [f"The autopilot {does}; mode {told['mode']}."]
    host = told["host"]
    if host is None:
        return [*lines, "There was no round yet."]
    available = "an unknown part" if host["available"] is None else format_bytes(host["available"])
    lines.append(
        f"The host has {available} available and keeps {format_bytes(host['reserve'])}; machines"
        f" may have {format_bytes(max(0, host['budget']))} together, of which"
        f" {format_bytes(max(0, host['free']))} are free."
    )
    if host["free"] < 0:
        lines.append(f"{format_bytes(-host['free'])} have to come back.")
    if told["reserved"]:
        lines.append(f"{format_bytes(told['reserved'])} of it are reserved.")
    return lines


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Two lines a machine: its sizes, and why it stays or moves."""
    names = [on_one_line(row["vm"]) for row in rows]
    columns = max(len("machine"), *(cell_len(name) for name in names))
    yield _line("machine", columns, "state", _SIZES)
    for name, row in zip(names, rows, strict=True):
        sizes = (row[key] for key in _KEYS)
        words = ["?" if size is None else format_bytes(size) for size in sizes]
        state = "paused" if row["paused"] else row["state"]
        yield _line(name, columns, state, words)
        yield f"  {row['because']}"


def _line(name: str, columns: int, state: str, sizes: Sequence[str]) -> str:
    return f"{fit(name, columns)}  {state:9}" + "".join(f"{one:>11}" for one in sizes)


def _decision(one: dict[str, Any]) -> str:
    if one["from"] == one["to"]:
        return f"stays at {format_bytes(one['to'])}: {one['because']}"
    return f"from {format_bytes(one['from'])} to {format_bytes(one['to'])}: {one['because']}"
