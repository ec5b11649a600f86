"""`ballonet info`: what a balloon is doing, and what its newest request waits for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ballonet.cli.monitor_client import JSON_OPTION, MACHINE_ARGUMENT, run
from ballonet.errors import CommandRefusedError, GuestError
from ballonet.units import format_bytes
from ballonet.vms.adapters import connected
from ballonet.vms.device_info import STEPS, DeviceInfo
from ballonet.vms.machine import Machine

__all__ = ["info"]

_DRIVER: Final = {
    True: "uses it",
    False: "nobody in the guest uses it",
    None: "not known; `ballonet stats` asks the guest",
}


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is shown; None: not known."""

    memory_bytes: int | None
    logical_bytes: int | None
    balloon_bytes: int | None
    paused: bool
    has_driver: bool | None
    poll_interval_s: int | None
    stats_last_update_s: int | None
    device: DeviceInfo | None  #: what only ours tells


@click.command()
@MACHINE_ARGUMENT
@JSON_OPTION
def info(address: str, *, as_json: bool) -> None:
    """Show a guest's balloon.

    MACHINE is a QMP socket, of `ballonet device --qmp` or of any QEMU.  Changes nothing.
    """
    facts = run(_facts(address))
    if as_json:
        click.echo(json.dumps(asdict(facts), indent=2))
    else:
        Console(highlight=False).print(_table(facts))


async def _facts(address: str) -> _Facts:
    async with connected(address) as vm:
        device, paused = await vm.device_info(), await vm.is_paused()
        if device is not None and device.ram_bytes is None:
            # Nothing can be asked of a guest that is not there.
            return _Facts(None, None, None, paused, device.has_driver, None, None, device)
        if device is None or device.logical_bytes is None:
            ram_bytes, logical_bytes = await vm.ram_bytes(), await vm.logical_bytes()
        else:
            ram_bytes, logical_bytes = device.ram_bytes, device.logical_bytes
        return _Facts(
            ram_bytes,
            logical_bytes,
            None if ram_bytes is None else max(0, ram_bytes - logical_bytes),
            paused,
            *await _of_statistics(vm, device),
            device,
        )


async def _of_statistics(
    vm: Machine, device: DeviceInfo | None
) -> tuple[bool | None, int | None, int | None]:
    """Whether a driver is there, how often it is asked, when it answered."""
    has_driver = None if device is None else device.has_driver
    try:
        if device is None:
            has_driver = await vm.has_driver()
        return has_driver, await vm.poll_interval(), (await vm.guest_stats()).last_update_s
    except (GuestError, CommandRefusedError):  # a balloon of another kind, as hv-balloon
        return has_driver, None, None


def _table(facts: _Facts) -> Table:
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column()
    for name, text in _rows(facts):
        table.add_row(name, Text(text))  # a text of the monitor's is no markup
    return table


def _rows(facts: _Facts) -> Iterator[tuple[str, str]]:
    device = facts.device
    if device is not None and device.problem:
        yield "problem", device.problem
    if device is not None and not device.connected:
        yield "state", "no VMM is connected yet"
    elif facts.paused:
        yield "state", "paused: the guest does not run, it cannot follow"
    sizes = {
        "memory": facts.memory_bytes,
        "the guest keeps": facts.logical_bytes,
        "balloon": facts.balloon_bytes,
    }
    for name, size_bytes in sizes.items():
        if size_bytes is not None:
            yield name, format_bytes(size_bytes)
    yield "driver", _DRIVER[facts.has_driver]
    if device is not None:
        yield from _device_rows(device)
    if facts.poll_interval_s is not None:
        yield "statistics", _statistics(facts)


def _statistics(facts: _Facts) -> str:
    every = f"every {facts.poll_interval_s} s" if facts.poll_interval_s else "not polled"
    if facts.stats_last_update_s is None:
        return f"{every}, none yet"
    clock = time.strftime("%H:%M:%S", time.localtime(facts.stats_last_update_s))
    return f"{every}, the newest of {clock}"


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
