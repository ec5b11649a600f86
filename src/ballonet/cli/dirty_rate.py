"""`ballonet dirty-rate`: how much a guest writes, which says whether a migration can keep up."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Final

import click

from ballonet.cli.monitor_client import JSON_OPTION, MACHINE_ARGUMENT, run
from ballonet.errors import GuestError
from ballonet.units import format_bytes
from ballonet.vms.addresses import connected

__all__ = ["dirty_rate"]

_LOOK_S: Final = 0.1
#: After the interval, for looking at its pages again, on a busy machine.
_PATIENCE_S: Final = 30.0


@click.command("dirty-rate")
@MACHINE_ARGUMENT
@click.option(
    "--interval", type=click.IntRange(1, 60), default=1, show_default=True, help="Seconds."
)
@JSON_OPTION
def dirty_rate(address: str, *, interval: int, as_json: bool) -> None:
    """Measure how much memory the guest writes each second.

    MACHINE is a QMP socket of a QEMU of at least 5.2, or of a guest of ballonet's.  QEMU estimates
    it from samples of its pages, in whole MiB.
    """
    found = run(_measure(address, interval))
    if as_json:
        click.echo(json.dumps({"dirty_bytes_per_s": found, "interval_s": interval}))
    else:
        click.echo(f"the guest writes {format_bytes(found)}/s")


async def _measure(address: str, interval_s: int) -> int:
    async with connected(address) as vm:
        if await vm.is_paused():
            raise GuestError("nothing to measure: the VM is paused")
        await vm.migration.begin_dirty_rate(interval_s)
        end_s = time.monotonic() + interval_s + _PATIENCE_S
        while True:
            found = await vm.migration.dirty_bytes_per_s()
            if found is not None:
                return found
            if time.monotonic() > end_s:
                raise GuestError(f"no dirty rate within {interval_s + _PATIENCE_S:.0f} s")
            await asyncio.sleep(_LOOK_S)
