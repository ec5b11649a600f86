"""`ballonet list`: every VM of this machine, what it has, and how it can be reached or why not."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

import click
from rich.cells import cell_len
from rich.console import Console

from ballonet.cli.cells import fit, on_one_line
from ballonet.cli.monitor_client import JSON_OPTION, run
from ballonet.units import format_bytes
from ballonet.vms.addresses import find_matching
from ballonet.vms.discovery import Found, find_machines, look_at

__all__ = ["list", "list_lines", "machine_as_json", "way_to"]

_SIZES: Final = ("memory", "keeps", "available", "host holds")
_SIZE_COLUMNS: Final = 10
_NAME_COLUMNS_MOST: Final = 28
_GAP: Final = "  "
#: Below this width, or where a path is longer than its column, kind and way stand below the sizes.
_WIDE_COLUMNS: Final = 120
_NONE: Final = "no such VM runs here, as far as this user may see"


@click.command()
@click.argument("pattern", default="*")
@JSON_OPTION
def list(pattern: str, *, as_json: bool) -> None:  # noqa: A001 - the verb's name
    """Show every VM of this machine, or those whose names match, and how they can be reached.

    Guests and devices of ballonet, domains of libvirt, machines of QEMU, Firecracker and Cloud
    Hypervisor.  `keeps` is what the guest has, `available` what it could use without swapping, by
    its own word, `host holds` what the host really holds for it; what is not known is shown as ?.
    Changes nothing.
    """
    found = run(_find(pattern))
    if as_json:
        click.echo(json.dumps([machine_as_json(one) for one in found], indent=2))
        return
    for line in list_lines(found, Console().width):
        click.echo(line)


async def _find(pattern: str) -> Sequence[Found]:
    return await look_at(find_matching(await find_machines(), pattern))


def list_lines(found: Sequence[Found], columns: int) -> Iterator[str]:
    """The table, no line longer than so many columns, unless by a word that cannot be cut."""
    if not found:
        yield _NONE
        return
    sizes_columns = len(_SIZES) * (_SIZE_COLUMNS + len(_GAP))
    names = [on_one_line(one.sighting.who.name) for one in found]
    name_columns = min(
        max(4, *(cell_len(name) for name in names)),
        _NAME_COLUMNS_MOST,
        columns - sizes_columns,
    )
    head = _line("name", name_columns, _SIZES)
    lines = [_line(name, name_columns, _sizes(one)) for name, one in zip(names, found, strict=True)]
    kinds = [one.sighting.who.kind for one in found]
    # A name that its column cuts stands whole beside what says where the machine is.
    ways = [
        f"{name}, {way_to(one)}" if cell_len(name) > name_columns else way_to(one)
        for name, one in zip(names, found, strict=True)
    ]
    head = f"{head}{_GAP}{'kind':{max(map(len, kinds))}}{_GAP}"
    way_columns = columns - cell_len(head)
    if columns < _WIDE_COLUMNS or not all(_has_room(way, way_columns) for way in ways):
        yield _line("name", name_columns, _SIZES)
        for line, kind, way in zip(lines, kinds, ways, strict=True):
            yield line
            yield from _wrapped(f"{kind}: {way}", columns, _GAP)
        return
    yield f"{head}reached"
    for line, kind, way in zip(lines, kinds, ways, strict=True):
        first, *rest = _wrapped(way, way_columns, "")
        yield fit(f"{line}{_GAP}{kind}", cell_len(head)) + first
        yield from (" " * cell_len(head) + more for more in rest)


def _has_room(text: str, columns: int) -> bool:
    """No word is longer than that."""
    return all(cell_len(word) <= columns for word in text.split())


def _line(name: str, name_columns: int, sizes: Sequence[str]) -> str:
    cells = [f"{one:>{_SIZE_COLUMNS}}" for one in sizes]
    return _GAP.join([fit(name, name_columns), *cells])


def _wrapped(text: str, columns: int, indent: str) -> Sequence[str]:
    return textwrap.wrap(
        text,
        columns,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [indent]


def _sizes(found: Found) -> Sequence[str]:
    look = found.observation
    sizes = (look.memory_bytes, look.actual_bytes, look.available_bytes, look.host.held_bytes)
    return ["?" if size is None else format_bytes(size) for size in sizes]


def way_to(found: Found) -> str:
    """By what it is reached, or why not, and what is wrong with it."""
    if found.why_not:
        return f"not reached: {found.why_not}"
    look = found.observation
    states = [found.sighting.address]
    if look.problem:
        states.append(look.problem)
    if look.device is not None and not look.device.connected:
        states.append("no VMM is connected")
    elif look.paused:
        states.append("paused")
    elif look.has_driver is False:
        states.append("no driver in the guest uses the balloon")
    return ", ".join(states)


def machine_as_json(found: Found) -> dict[str, object]:
    """What is known of it for programs; null: not known."""
    look = found.observation
    return {
        "kind": look.who.kind,
        "name": look.who.name,
        "uri": look.who.uri or None,
        "pid": look.who.pid,
        "memory_bytes": look.memory_bytes,
        "target_bytes": look.target_bytes,
        "actual_bytes": look.actual_bytes,
        "available_bytes": look.available_bytes,
        "stats_age_s": look.stats_age_s,
        "host_bytes": look.host.held_bytes,
        "paused": look.paused,
        "has_driver": look.has_driver,
        "problem": look.problem,
        "why_not": found.why_not or None,
    }
