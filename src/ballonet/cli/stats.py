"""`ballonet stats`: what a guest says of its memory, with rates."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from ballonet.cli.monitor_client import JSON_OPTION, complete_machines, run
from ballonet.cli.stats_of_all import sample_as_json, show_statistics, statistics_of_all
from ballonet.errors import GuestError
from ballonet.units import format_bytes
from ballonet.virtio.stats import STATS, StatRow, StatUnit
from ballonet.vms.addresses import connected
from ballonet.vms.fresh_sample import fresh_sample
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.polling import polling
from ballonet.vms.rates import LEVELS

__all__ = ["stats"]

_PATTERN_LETTERS: Final = frozenset("*?[")


@click.command()
@click.argument("address", metavar="[MACHINE]", required=False, shell_complete=complete_machines)
@click.option("--all", "everything", is_flag=True, help="Of every machine that can be asked.")
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C, and show rates.")
@click.option(
    "--interval", type=click.IntRange(1, 2**32 - 1), default=1, show_default=True, help="Seconds."
)
@JSON_OPTION
def stats(
    address: str | None, *, everything: bool, watch: bool, interval: int, as_json: bool
) -> None:
    """Show the guest's memory statistics.

    MACHINE is a name, as `ballonet list` shows it, a pattern such as 'web*', or a socket.
    Asks the guest for fresh values, and leaves the polling as it was; where somebody polls already,
    their interval counts.
    """
    if (address is None) != everything:
        raise click.UsageError("either MACHINE or --all")
    with suppress(KeyboardInterrupt):
        if address is not None and not _is_pattern(address):
            run(_stats(address, watch=watch, interval_s=interval, as_json=as_json))
            return
        if watch:
            raise click.UsageError("--watch shows one machine")
        show_statistics(run(statistics_of_all(address or "*")), as_json=as_json)


def _is_pattern(address: str) -> bool:
    return "/" not in address and bool(_PATTERN_LETTERS & set(address))


async def _stats(address: str, *, watch: bool, interval_s: int, as_json: bool) -> None:
    console = Console(highlight=False)
    async with connected(address) as vm, polling(vm, interval_s) as guest:
        if await vm.is_paused():
            raise GuestError("no fresh statistics: the VM is paused")
        await guest.ask()
        before = None
        while True:
            sample = await fresh_sample(vm, guest)
            click.echo(json.dumps(sample_as_json(sample))) if as_json else console.print(
                _table(sample, before)
            )
            if not watch:
                return
            before = sample


def _table(sample: GuestStats, before: GuestStats | None) -> Table:
    when = "of an age that is not told"
    if sample.last_update_s is not None:
        when = f"of {time.strftime('%H:%M:%S', time.localtime(sample.last_update_s))}"
    table = Table(title=f"statistics {when}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    for row in STATS:
        if row.name in sample.values:
            table.add_row(
                row.name, _value(row, sample.values[row.name]), _rate(row, sample, before)
            )
    return table


def _value(row: StatRow, value: int) -> str:
    return format_bytes(value) if row.unit is StatUnit.BYTES else f"{value:,}"


def _rate(row: StatRow, sample: GuestStats, before: GuestStats | None) -> str:
    """What was added each second, for what only grows."""
    if before is None or row.name in LEVELS or row.name not in before.values:
        return ""
    if sample.last_update_s is None or before.last_update_s is None:
        return ""
    seconds = sample.last_update_s - before.last_update_s
    grown = sample.values[row.name] - before.values[row.name]
    # A counter that fell is another kernel's.
    return f"{_value(row, grown // seconds)}/s" if seconds > 0 and grown >= 0 else ""
