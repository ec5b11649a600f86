"""`ballonet history`: what the agent of this host remembers of every machine.

Units: bytes, seconds.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from ballonet.agent.commands import HISTORY_COMMAND
from ballonet.cli.agent_monitor import AGENT_DIRECTORY_OPTION, answer_of_agent
from ballonet.cli.cells import fit
from ballonet.cli.monitor_client import JSON_OPTION, complete_machines, run
from ballonet.cli.seconds import SecondsType
from ballonet.cli.top.chart import bars, chart_lines
from ballonet.cli.top.recalled import as_rounds, points_of
from ballonet.units import format_short_bytes

__all__ = ["history"]

_NAME_COLUMNS: Final = 20
_SIZE_COLUMNS: Final = 7
#: Of the three charts of one machine.
_LINES: Final = 18


@click.command()
@click.argument("machine", required=False, shell_complete=complete_machines)
@click.option(
    "--last", "seconds", type=SecondsType(), default="1h", help="So far back, as in 30m; 1h."
)
@AGENT_DIRECTORY_OPTION
@JSON_OPTION
def history(machine: str | None, seconds: float, directory: Path | None, *, as_json: bool) -> None:
    """Show the last hours of MACHINE, or of every machine that the agent of this host watches.

    One has three charts: what its guest keeps, could use, and what the host holds for it.  Of all
    there is a line each, of what the guest keeps.  The agent remembers some hours, also after it
    was started anew; Prometheus is for longer.
    """
    whole = max(1, round(seconds))
    told = run(answer_of_agent(directory, HISTORY_COMMAND, seconds=whole))
    found = told["vms"]
    if machine is not None:
        vm = _named(found, machine)
        found = {vm: found[vm]}
    if as_json:
        click.echo(json.dumps({"keys": told["keys"], "vms": found}))
        return
    if not found:
        click.echo("nothing is remembered yet: the agent writes it down every 10 s", err=True)
        return
    columns = shutil.get_terminal_size().columns
    console = Console(width=columns, highlight=False, soft_wrap=True)
    lines = (
        _all(told["keys"], found, columns, seconds)
        if machine is None
        else _one(told["keys"], next(iter(found.values())), columns, seconds)
    )
    for line in lines:
        console.print(line)


def _named(found: Mapping[str, object], name: str) -> str:
    """By `kind:name` or, where only one has it, by the name. Raises: ClickException."""
    names = [vm for vm in found if name in (vm, vm.partition(":")[2])]
    if len(names) != 1:
        known = ", ".join(sorted(names or found)) or "none"
        few = "several machines have that name" if names else "nothing is remembered of it"
        raise click.ClickException(f"{name}: {few}; remembered: {known}")
    return names[0]


def _all(keys: Sequence[str], found: Mapping[str, Any], columns: int, seconds: float) -> list[Text]:
    wide = max(10, columns - _NAME_COLUMNS - 2 * _SIZE_COLUMNS - 3)
    title = f"{'machine':{_NAME_COLUMNS}} {'keeps':>{_SIZE_COLUMNS}} {'of':>{_SIZE_COLUMNS}}"
    lines = [Text(f"{title} the last {_words(seconds)}", style="bold")]
    for vm, rows in sorted(found.items()):
        memory = max((row[keys.index("memory")] or 0 for row in rows), default=0)
        points = as_rounds(points_of(keys, rows), seconds / wide, time.time(), wide)
        kept = [point.actual_bytes for point in points]
        now = "?" if kept[-1] is None else format_short_bytes(kept[-1])
        (drawn,) = bars(kept, memory, wide, 1)
        sizes = f"{now:>{_SIZE_COLUMNS}} {format_short_bytes(memory):>{_SIZE_COLUMNS}}"
        lines.append(Text(f"{fit(vm, _NAME_COLUMNS)} {sizes} {drawn}"))
    return lines


def _one(keys: Sequence[str], rows: Sequence[Any], columns: int, seconds: float) -> list[Text]:
    memory = max((row[keys.index("memory")] or 0 for row in rows), default=0)
    points = as_rounds(points_of(keys, rows), seconds / columns, time.time(), columns)
    return list(chart_lines(points, memory, columns, _LINES))


def _words(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
