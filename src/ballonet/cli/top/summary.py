"""What stands above and below the table: this computer, all machines together, the selected one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from ballonet.cli.cells import on_one_line
from ballonet.cli.list import way_to
from ballonet.cli.top.columns import age_in_words
from ballonet.cli.top.rows import Piloted, Row
from ballonet.units import format_bytes, format_short_bytes
from ballonet.vms.change import Verdict
from ballonet.vms.condition import Condition
from ballonet.vms.observation import Observation
from ballonet.vms.this_host import HostLook

__all__ = ["details", "host_in_words", "machines_in_words"]

_WORDS: Final = {
    Condition.STUCK: Verdict.STUCK.value,
    Condition.UNCONFIRMED: Verdict.UNCONFIRMED.value,
}
_FOLLOWED: Final = (Condition.ASKED, Condition.MOVING, Condition.STUCK)


def host_in_words(host: HostLook) -> list[str]:
    """Memory of this computer, swap, and pressure; what its kernel does not tell is left out."""
    parts = []
    if host.total_bytes is not None and host.available_bytes is not None:
        total, available = map(format_short_bytes, (host.total_bytes, host.available_bytes))
        parts.append(f"host {total}, {available} available")
    if host.swap_total_bytes and host.swap_free_bytes is not None:
        used = format_short_bytes(host.swap_total_bytes - host.swap_free_bytes)
        parts.append(f"swap {format_short_bytes(host.swap_total_bytes)}, {used} used")
    if host.some is not None:
        parts.append(f"pressure {host.some.avg10:.1%}")
    return parts


def machines_in_words(rows: Sequence[Row]) -> list[str]:
    """What all have together, if there are any."""
    if not rows:
        return []
    return [
        f"all keep {_sum(rows, lambda look: look.actual_bytes)}",
        f"held for them {_sum(rows, lambda look: look.host.held_bytes)}",
    ]


def _sum(rows: Iterable[Row], value_of: Callable[[Observation], int | None]) -> str:
    values = [value_of(row.look) for row in rows]
    known = [value for value in values if value is not None]
    text = format_short_bytes(sum(known)) if known or not values else "?"
    unknown = len(values) - len(known)
    return f"{text} ({unknown} unknown)" if unknown and known else text


def details(row: Row) -> str:
    """Everything about a machine for which the table has no room, in words."""
    look = row.look
    parts = [f"{row.key.kind}:{row.key.name}, {way_to(row.found)}"]
    if row.suffers_from is not None:
        parts.append(f"it suffers: {row.suffers_from}")
    if row.condition in _FOLLOWED:
        parts += _change_in_words(look)
    if row.condition in _WORDS:
        parts.append(_WORDS[row.condition])
    if row.is_old and look.stats_age_s is not None:
        parts.append(f"its statistics are {age_in_words(look.stats_age_s)} old")
    if row.piloted is not None:
        parts.append(_autopilot_in_words(row.piloted))
    return on_one_line("; ".join(parts))


def _autopilot_in_words(piloted: Piloted) -> str:
    verb = "would keep" if piloted.is_dry_run else "keeps"
    size = format_bytes(piloted.wanted_bytes)
    return f"the autopilot {verb} it at {size} ({piloted.state}): {piloted.because}"


def _change_in_words(look: Observation) -> Iterator[str]:
    """Of a change that is under way, as far as it is told."""
    if look.target_bytes is not None:
        yield f"it is asked to keep {format_bytes(look.target_bytes)}"
    if look.device is not None and look.device.why:
        yield look.device.why
