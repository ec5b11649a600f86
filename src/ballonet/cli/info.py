"""`ballonet info`: what a balloon is doing, and what its newest request waits for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ballonet.cli.monitor_client import JSON_OPTION, SOCKET_ARGUMENT, run
from ballonet.units import format_bytes, pages_to_bytes
from ballonet.vms.qmp_vm import connected

__all__ = ["info"]

_STEPS = ("asked", "sent", "read", "moved", "reached")


@click.command()
@SOCKET_ARGUMENT
@JSON_OPTION
def info(socket_path: Path, *, as_json: bool) -> None:
    """Show a guest's balloon.

    SOCKET is a QMP socket, of `ballonet device --qmp` or of any QEMU.
    """
    facts = run(_facts(socket_path))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        Console(highlight=False).print(_table(facts))


async def _facts(path: Path) -> dict[str, Any]:
    async with connected(path) as vm:
        ram, logical = await vm.ram_bytes(), await vm.logical_bytes()
        return {
            "memory": ram,
            "logical": logical,
            "balloon": None if ram is None else max(0, ram - logical),
            "has-driver": await vm.has_driver(),
            "poll-interval": await vm.poll_interval(),
            "last-update": (await vm.guest_stats())["last-update"],
            **{name: value for name, value in (await vm.info()).items() if name != "ram"},
        }


def _table(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column()
    for name, key in (("memory", "memory"), ("the guest keeps", "logical"), ("balloon", "balloon")):
        if facts[key] is not None:
            table.add_row(name, format_bytes(facts[key]))
    table.add_row("driver", "uses it" if facts["has-driver"] else "nobody in the guest uses it")
    if "stage" in facts:
        _add_own(table, facts)
    interval = facts["poll-interval"]
    table.add_row("statistics", f"every {interval} s" if interval else "not polled")
    return table


def _add_own(table: Table, facts: dict[str, Any]) -> None:
    """What only our own monitor tells."""
    table.add_row("target", f"{format_bytes(pages_to_bytes(facts['target-pages']))} in the balloon")
    table.add_row("newest request", facts["why"])
    steps = [
        f"{step} {facts['request'][f'{step}-ms-ago'] / 1000:.3f} s ago"
        for step in _STEPS
        if facts["request"][f"{step}-ms-ago"] is not None
    ]
    if steps:
        table.add_row("", ", ".join(steps))
    table.add_row("host holds", format_bytes(facts["host-memory"]))
    table.add_row("features", ", ".join(facts["features"]) or "none")
    table.add_row("answers", facts["stats"])
    if facts["inhibited"]:
        table.add_row("no discards", ", ".join(facts["inhibited"]))
    if facts.get("problem"):
        table.add_row("problem", facts["problem"])
    if facts["broken"]:
        table.add_row("broken", facts["broken"])
