"""`ballonet stats`: what a guest says of its memory, with rates."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from ballonet.cli.monitor_client import JSON_OPTION, MACHINE_ARGUMENT, run
from ballonet.errors import GuestError
from ballonet.units import format_bytes
from ballonet.virtio.stats import STATS, StatRow, StatUnit
from ballonet.vms.adapters import connected
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.machine import Machine
from ballonet.vms.polling import Polling, polling

__all__ = ["stats"]

_FIRST_S: Final = 10.0
#: Those that say what is now; the others count since the guest's boot.
_LEVELS: Final = frozenset({"memfree", "memtot", "avail", "caches"})


@click.command()
@MACHINE_ARGUMENT
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C, and show rates.")
@click.option(
    "--interval", type=click.IntRange(1, 2**32 - 1), default=1, show_default=True, help="Seconds."
)
@JSON_OPTION
def stats(address: str, *, watch: bool, interval: int, as_json: bool) -> None:
    """Show the guest's memory statistics.

    MACHINE is a QMP socket, of `ballonet device --qmp` or of any QEMU.  Asks the guest for fresh
    values, and leaves the polling as it was; where somebody polls already, their interval counts.
    """
    with suppress(KeyboardInterrupt):
        run(_stats(address, watch=watch, interval_s=interval, as_json=as_json))


async def _stats(address: str, *, watch: bool, interval_s: int, as_json: bool) -> None:
    console = Console(highlight=False)
    async with connected(address) as vm, polling(vm, interval_s) as guest:
        if await vm.is_paused():
            raise GuestError("no fresh statistics: the VM is paused")
        await guest.ask()
        before = None
        while True:
            sample = await _next(vm, guest)
            click.echo(json.dumps(_as_json(sample))) if as_json else console.print(
                _table(sample, before)
            )
            if not watch:
                return
            before = sample


async def _next(vm: Machine, guest: Polling) -> GuestStats:
    """The next sample. Raises: GuestError, saying what is known."""
    timeout_s = max(_FIRST_S, 3.0 * await vm.poll_interval())
    sample = await guest.next(timeout_s)
    if sample is not None:
        return sample
    raise GuestError(f"no fresh statistics within {timeout_s:.0f} s: {await _why_not(vm)}")


async def _why_not(vm: Machine) -> str:
    if await vm.is_paused():
        return "the VM is paused"
    info = await vm.device_info()
    if info is not None:
        return info.problem or info.stats or "the device does not say why"
    return "the guest does not answer; whether it has a balloon driver is not known"


def _as_json(sample: GuestStats) -> dict[str, object]:
    """Under QEMU's names; null for what the driver does not send."""
    return {
        "last_update_s": sample.last_update_s,
        "stats": {_json_key(row): sample.values.get(row.name) for row in STATS},
    }


def _json_key(row: StatRow) -> str:
    name = row.qemu_key.removeprefix("stat-").replace("-", "_")
    return f"{name}_bytes" if row.unit is StatUnit.BYTES else name


def _table(sample: GuestStats, before: GuestStats | None) -> Table:
    clock = time.strftime("%H:%M:%S", time.localtime(sample.last_update_s))
    table = Table(title=f"statistics of {clock}", title_justify="left", show_header=False)
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
    if before is None or row.name in _LEVELS or row.name not in before.values:
        return ""
    seconds = (sample.last_update_s or 0) - (before.last_update_s or 0)
    grown = sample.values[row.name] - before.values[row.name]
    # A counter that fell is another kernel's.
    return f"{_value(row, grown // seconds)}/s" if seconds > 0 and grown >= 0 else ""
