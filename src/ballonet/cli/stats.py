"""`ballonet stats`: what a guest says of its memory, with rates."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from ballonet.cli.monitor_client import JSON_OPTION, SOCKET_ARGUMENT, run
from ballonet.errors import GuestError
from ballonet.units import format_bytes
from ballonet.virtio.stats import STATS, UNSET, StatRow, StatUnit
from ballonet.vms.qmp_vm import QmpVm, connected

__all__ = ["stats"]

_FIRST_S: Final = 10.0
_LOOK_S: Final = 0.1
#: Those that say what is now; the others count since the guest's boot.
_LEVELS: Final = frozenset({"memfree", "memtot", "avail", "caches"})

Sample = dict[str, Any]


@click.command()
@SOCKET_ARGUMENT
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C, and show rates.")
@click.option(
    "--interval", type=click.IntRange(1, 2**32 - 1), default=1, show_default=True, help="Seconds."
)
@JSON_OPTION
def stats(socket_path: Path, *, watch: bool, interval: int, as_json: bool) -> None:
    """Show the guest's memory statistics.

    SOCKET is a QMP socket, of `ballonet device --qmp` or of any QEMU.  Asks the guest for fresh
    values, and leaves the polling as it was.
    """
    with suppress(KeyboardInterrupt):
        run(_stats(socket_path, watch=watch, interval_s=interval, as_json=as_json))


async def _stats(path: Path, *, watch: bool, interval_s: int, as_json: bool) -> None:
    console = Console(highlight=False)
    async with connected(path) as vm, _polling(vm, interval_s):
        sample = await _fresh(vm, None, max(_FIRST_S, 3.0 * interval_s))
        _show(console, sample, None, as_json=as_json)
        while watch:
            before = sample
            sample = await _fresh(vm, sample, max(_FIRST_S, 3.0 * interval_s))
            _show(console, sample, before, as_json=as_json)


@asynccontextmanager
async def _polling(vm: QmpVm, interval_s: int) -> AsyncIterator[None]:
    """Poll so often inside the block, unless somebody polls already."""
    before = await vm.poll_interval()
    if before:
        yield
        return
    await vm.set_poll_interval(interval_s)
    try:
        yield
    finally:
        await vm.set_poll_interval(0)


async def _fresh(vm: QmpVm, old: Sample | None, timeout_s: float) -> Sample:
    """The next sample. Raises: GuestError."""
    begun = time.monotonic()
    first = old or await vm.guest_stats()
    while time.monotonic() - begun < timeout_s:
        sample: Sample = await vm.guest_stats()
        if sample["last-update"] != first["last-update"] or sample["stats"] != first["stats"]:
            return sample
        await asyncio.sleep(_LOOK_S)
    info = await vm.info()
    why = info.get("stats") or ("no driver" if not await vm.has_driver() else "it does not answer")
    raise GuestError(f"no fresh statistics within {timeout_s:.0f} s: {why}")


def _show(console: Console, sample: Sample, before: Sample | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(sample))
        return
    clock = time.strftime("%H:%M:%S", time.localtime(sample["last-update"]))
    table = Table(title=f"statistics of {clock}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    seconds = sample["last-update"] - before["last-update"] if before else 0
    for row in STATS:
        value = sample["stats"].get(row.qemu_key, UNSET)
        if value != UNSET:
            old = before["stats"].get(row.qemu_key, UNSET) if before else UNSET
            table.add_row(row.name, _value(row, value), _rate(row, value, old, seconds))
    console.print(table)


def _value(row: StatRow, value: int) -> str:
    return format_bytes(value) if row.unit is StatUnit.BYTES else f"{value:,}"


def _rate(row: StatRow, value: int, old: int, seconds: int) -> str:
    """What was added each second, for what only grows."""
    if row.name in _LEVELS or old == UNSET or seconds <= 0:
        return ""
    return f"{_value(row, max(0, value - old) // seconds)}/s"
