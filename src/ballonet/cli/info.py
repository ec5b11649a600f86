"""`ballonet info`: what a balloon is doing, and what its newest request waits for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ballonet.cli.monitor_client import JSON_OPTION, MACHINE_ARGUMENT, run
from ballonet.units import format_bytes
from ballonet.vms.addresses import connected
from ballonet.vms.device_info import STEPS, DeviceInfo
from ballonet.vms.observation import Observation

__all__ = ["info"]

_ASKS: Final = "; `ballonet stats` asks the guest"
_DRIVER: Final = {
    True: "uses it",
    False: "nobody in the guest uses it",
    None: "not known",
}


@click.command()
@MACHINE_ARGUMENT
@JSON_OPTION
def info(address: str, *, as_json: bool) -> None:
    """Show a guest's balloon.

    MACHINE is the name of one, as `ballonet list` shows it, or its socket.  Changes nothing.
    """
    look = run(_look(address))
    if as_json:
        click.echo(json.dumps(_as_json(look), indent=2))
    else:
        Console(highlight=False).print(_table(look))


async def _look(address: str) -> Observation:
    async with connected(address) as vm:
        return await vm.observe()


def _as_json(look: Observation) -> dict[str, object]:
    """Null: not known."""
    return {
        "name": look.who.name,
        "kind": look.who.kind,
        "pid": look.who.pid,
        "memory_bytes": look.memory_bytes,
        "target_bytes": look.target_bytes,
        "logical_bytes": look.actual_bytes,
        "balloon_bytes": _balloon_bytes(look),
        "host_bytes": look.host.held_bytes,
        "paused": look.paused,
        "has_driver": look.has_driver,
        "poll_interval_s": look.poll_interval_s,
        "stats_last_update_s": look.stats_last_update_s,
        "problem": look.problem,
        "device": None if look.device is None else asdict(look.device),
    }


def _balloon_bytes(look: Observation) -> int | None:
    if look.memory_bytes is None or look.actual_bytes is None:
        return None
    return max(0, look.memory_bytes - look.actual_bytes)


def _table(look: Observation) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, text in _rows(look):
        table.add_row(name, Text(text))  # a text of the monitor's is no markup
    return table


def _rows(look: Observation) -> Iterator[tuple[str, str]]:
    device = look.device
    if look.problem:
        yield "problem", look.problem
    if device is not None and not device.connected:
        yield "state", "no VMM is connected yet"
    elif look.paused:
        yield "state", "paused: the guest does not run, it cannot follow"
    sizes = {
        "memory": look.memory_bytes,
        "the guest keeps": look.actual_bytes,
        "balloon": _balloon_bytes(look),
    }
    for name, size_bytes in sizes.items():
        if size_bytes is not None:
            yield name, format_bytes(size_bytes)
    hint = "" if look.has_driver is not None or look.poll_interval_s is None else _ASKS
    yield "driver", _DRIVER[look.has_driver] + hint
    if device is not None:
        yield from _device_rows(device)
    else:
        yield from _foreign_rows(look)
    if look.poll_interval_s is not None:
        yield "statistics", _statistics(look)


def _statistics(look: Observation) -> str:
    every = f"every {look.poll_interval_s} s" if look.poll_interval_s else "not polled"
    if look.stats_last_update_s is not None:
        clock = time.strftime("%H:%M:%S", time.localtime(look.stats_last_update_s))
        return f"{every}, the newest of {clock}"
    return f"{every}, of an age that is not told" if look.statistics else f"{every}, none yet"


def _foreign_rows(look: Observation) -> Iterator[tuple[str, str]]:
    """What only others do not tell by themselves."""
    if look.target_bytes is not None:
        yield "target", f"the guest is asked to keep {format_bytes(look.target_bytes)}"
    held_bytes = look.host.held_bytes
    holds = f"not known: {look.host.why_not}" if held_bytes is None else format_bytes(held_bytes)
    yield "host holds", holds


def _device_rows(device: DeviceInfo) -> Iterator[tuple[str, str]]:
    """What only our own device tells."""
    if device.target_bytes is not None:
        yield "target", f"{format_bytes(device.target_bytes)} in the balloon"
    if device.why:
        yield "newest request", device.why
    ages = {step: device.request_age_s.get(step) for step in STEPS}
    steps = [f"{step} {age_s:.3f} s ago" for step, age_s in ages.items() if age_s is not None]
    if steps:
        yield "", ", ".join(steps)
    if device.host_bytes is not None:
        yield "host holds", format_bytes(device.host_bytes)
    yield "features", ", ".join(device.features) or "none"
    if device.stats:
        yield "answers", device.stats
    if device.inhibited:
        yield "no discards", ", ".join(device.inhibited)
    if device.broken:
        yield "broken", device.broken
