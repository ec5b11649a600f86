"""`ballonet stats` of many machines: asked at once, shown in one table.

Units: seconds.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ballonet.errors import BallonetError, GuestError
from ballonet.units import format_bytes
from ballonet.virtio.stats import STATS, StatRow, StatUnit
from ballonet.vms.adapters import connected_to
from ballonet.vms.addresses import find_matching
from ballonet.vms.discovery import find_machines
from ballonet.vms.fresh_sample import fresh_sample
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.polling import polling
from ballonet.vms.sighting import Sighting

__all__ = ["json_key", "sample_as_json", "show_statistics", "statistics_of_all"]

#: One machine has so long, connection and all, and holds up no other.
_EACH_S: Final = 15.0
_COLUMNS: Final = {"total": "memtot", "available": "avail", "free": "memfree", "caches": "caches"}


@dataclass(frozen=True, slots=True)
class _Answer:
    sighting: Sighting
    sample: GuestStats | None = None
    why_not: str = ""


async def statistics_of_all(pattern: str) -> list[_Answer]:
    """Fresh statistics of every machine whose name matches. Raises: GuestError, if none does."""
    found = find_matching(await find_machines(), pattern)
    if not found:
        raise GuestError(f"no machine here is named like {pattern}; see `ballonet list`")
    return list(await asyncio.gather(*(_answer(one) for one in found)))


def show_statistics(answers: list[_Answer], *, as_json: bool) -> None:
    """Print them. Raises: GuestError, if no guest has answered."""
    if as_json:
        click.echo(json.dumps([_answer_as_json(one) for one in answers], indent=2))
    else:
        console = Console(highlight=False, markup=False)
        if any(one.sample for one in answers):
            console.print(_table(answers))
        for one in answers:
            if one.sample is None:
                console.print(f"{one.sighting.who.name}: {one.why_not}", soft_wrap=True)
    if not any(one.sample for one in answers):
        raise GuestError("no guest has answered")


def sample_as_json(sample: GuestStats | None) -> dict[str, object]:
    """Under QEMU's names; null for what the driver does not send."""
    values = {} if sample is None else sample.values
    return {
        "last_update_s": None if sample is None else sample.last_update_s,
        "stats": {json_key(row): values.get(row.name) for row in STATS},
    }


async def _answer(sighting: Sighting) -> _Answer:
    if sighting.why_not:
        return _Answer(sighting, why_not=sighting.why_not)
    try:
        async with asyncio.timeout(_EACH_S), connected_to(sighting) as vm, polling(vm) as guest:
            if await vm.is_paused():
                return _Answer(sighting, why_not="the VM is paused")
            await guest.ask()
            return _Answer(sighting, await fresh_sample(vm, guest))
    except TimeoutError:
        return _Answer(sighting, why_not=f"it has not answered within {_EACH_S:.0f} s")
    except BallonetError as error:
        return _Answer(sighting, why_not=str(error))


def _answer_as_json(answer: _Answer) -> dict[str, object]:
    who = answer.sighting.who
    return {
        "name": who.name,
        "kind": who.kind,
        "why_not": answer.why_not or None,
        **sample_as_json(answer.sample),
    }


def json_key(row: StatRow) -> str:
    """What a statistic is called in JSON: QEMU's name, with the unit."""
    name = row.qemu_key.removeprefix("stat-").replace("-", "_")
    return f"{name}_bytes" if row.unit is StatUnit.BYTES else name


def _table(answers: list[_Answer]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True, overflow="ellipsis")
    for title in (*_COLUMNS, "age"):
        table.add_column(title, justify="right", no_wrap=True)
    now_s = time.time()
    for one in answers:
        if one.sample is not None:
            values = [one.sample.values.get(name) for name in _COLUMNS.values()]
            sizes = ["?" if value is None else format_bytes(value) for value in values]
            table.add_row(Text(one.sighting.who.name), *sizes, _age(one.sample, now_s))
    return table


def _age(sample: GuestStats, now_s: float) -> str:
    if sample.last_update_s is None:
        return "?"
    return f"{max(0.0, now_s - sample.last_update_s):.0f} s"
