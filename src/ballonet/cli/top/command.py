"""`ballonet top`: every VM of this machine, live."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import Final

import click
from rich.console import Console

from ballonet.cli.monitor_client import JSON_OPTION, run
from ballonet.cli.seconds import SecondsType
from ballonet.cli.top.as_json import round_as_json
from ballonet.cli.top.live import Live, scene_now
from ballonet.cli.top.rounds import Rounds
from ballonet.cli.top.rows import Sort, sorted_rows
from ballonet.cli.top.screen import once_lines

__all__ = ["top"]

_SORTS: Final = {sort.name.lower(): sort for sort in Sort}
_INTERVAL_LEAST_S: Final = 0.2


@click.command()
@click.argument("pattern", default="*")
@click.option(
    "--interval",
    "interval_s",
    type=SecondsType(),
    default="2s",
    show_default=True,
    help="Time between two rounds; statistics are asked for in whole seconds.",
)
@click.option("--sort", "sort", type=click.Choice(list(_SORTS)), default="name", show_default=True)
@click.option("--once", is_flag=True, help="Print one round and end.")
@JSON_OPTION
def top(pattern: str, *, interval_s: float, sort: str, once: bool, as_json: bool) -> None:
    """Show every VM of this machine live, or those whose names match; ? tells the keys.

    Guests that nobody asks for statistics are asked every --interval, and left as before at the
    end.  With --json one object a round is printed, a line each.  Where standard output is no
    terminal one round is printed, as with --once.
    """
    if interval_s < _INTERVAL_LEAST_S:
        raise click.UsageError(f"--interval: at least {_INTERVAL_LEAST_S:.1f} s")
    with suppress(KeyboardInterrupt):
        run(_top(pattern, interval_s, _SORTS[sort], once=once, as_json=as_json))


async def _top(pattern: str, interval_s: float, sort: Sort, *, once: bool, as_json: bool) -> None:
    console = Console(highlight=False)
    async with Rounds(pattern, interval_s) as rounds:
        if as_json:
            await _print_json(rounds, once=once)
        elif once or not sys.stdout.isatty() or console.is_dumb_terminal:
            rows = sorted_rows(await rounds.only(), sort)
            for line in once_lines(rows, scene_now(interval_s), console.width, sort):
                console.print(line, end="\n", soft_wrap=True)
        else:
            await Live(rounds, sort).run()


async def _print_json(rounds: Rounds, *, once: bool) -> None:
    """Raises: OSError, where nobody reads any more."""
    while True:
        rows = await (rounds.only() if once else rounds.next())
        click.echo(json.dumps(round_as_json(rows, scene_now(rounds.interval_s).host)))
        if once:
            return
        await asyncio.sleep(rounds.left_s)
