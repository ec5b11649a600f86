"""The table of `ballonet top`: its columns, which of them fit a width, and what stands in them.

Units: columns of a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from ballonet.cli.cells import fit
from ballonet.cli.top.rows import Row, Sort
from ballonet.units import format_short_bytes
from ballonet.vms.condition import Condition

__all__ = ["COLUMNS", "Column", "Table", "age_in_words", "table_for"]

_GAP: Final = 2
_NAME_LEAST: Final = 12
_NAME_MOST: Final = 40
_UNKNOWN: Final = "?"
#: Where only they help: what is wrong, what is under way, what is of no interest now.
_STYLES: Final = {
    Condition.STUCK: "bold red",
    Condition.SUFFERING: "bold red",
    Condition.SILENT: "yellow",
    Condition.UNREACHED: "yellow",
    Condition.UNCONFIRMED: "yellow",
    Condition.ASKED: "cyan",
    Condition.MOVING: "cyan",
    Condition.ARRIVED: "green",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column; those of the lowest rank are shown first."""

    head: str
    width: int
    rank: int
    text: Callable[[Row], str]
    meaning: str
    sort: Sort | None = None
    is_left: bool = False


def _size(size_bytes: int | None) -> str:
    return _UNKNOWN if size_bytes is None else format_short_bytes(size_bytes)


def _size_rate(row: Row, name: str) -> str:
    rate = row.guest_rate(name)
    return _UNKNOWN if rate is None else format_short_bytes(round(rate))


def _rate(row: Row, name: str) -> str:
    rate = row.guest_rate(name)
    if rate is None:
        return _UNKNOWN
    for letter in " kMGT":
        if rate < 9999.5:
            return f"{rate:.0f}{letter}".rstrip()
        rate /= 1000
    return "many"


def age_in_words(age_s: float) -> str:
    """``45s``, ``3m``, ``5h``, ``9d``."""
    for unit_s, letter in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if age_s >= 2 * unit_s:
            return f"{min(999, int(age_s // unit_s))}{letter}"
    return f"{age_s:.0f}s"


def _age(row: Row) -> str:
    age_s = row.look.stats_age_s
    return age_in_words(age_s) if row.is_old and age_s is not None else ""


def _state(row: Row) -> str:
    if row.condition in (Condition.QUIET, Condition.ARRIVED) and row.is_old:
        return "old stats"
    return row.condition.value


def _needs(row: Row) -> str:
    """Nothing where nobody says it."""
    return "" if row.piloted is None else _size(row.piloted.need_bytes)


#: As they stand from left to right, after the name.
COLUMNS: Final = (
    Column("kind", 8, 11, lambda row: row.key.kind, "whose VMM it is", is_left=True),
    Column("memory", 6, 4, lambda row: _size(row.look.memory_bytes), "all the guest's memory"),
    Column("target", 6, 6, lambda row: _size(row.look.target_bytes), "what it was asked to keep"),
    Column("keeps", 5, 1, lambda row: _size(row.look.actual_bytes), "what it keeps"),
    Column(
        "used",
        5,
        3,
        lambda row: _size(row.used_bytes),
        "... less what is available: it needs that",
        Sort.USED,
    ),
    Column(
        "avail",
        5,
        2,
        lambda row: _size(row.look.available_bytes),
        "what it could use without swapping, it says",
        Sort.AVAILABLE,
    ),
    Column("cache", 5, 8, lambda row: _size(row.caches_bytes), "files that it keeps in memory"),
    Column(
        "swapin/s",
        8,
        7,
        lambda row: _size_rate(row, "swap_in"),
        "what it reads back from its swap",
    ),
    Column(
        "faults/s",
        8,
        5,
        lambda row: _rate(row, "majflt"),
        "how often it waits for a disk (major faults)",
        Sort.RATE,
    ),
    Column(
        "held",
        5,
        2,
        lambda row: _size(row.look.host.held_bytes),
        "what the host really holds for it, measured",
        Sort.HELD,
    ),
    Column("needs", 5, 10, _needs, "what the autopilot thinks that it needs"),
    Column("state", 9, 0, _state, "what its balloon is doing", is_left=True),
    Column("age", 4, 9, _age, "of its statistics, if they are old"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """Those columns that fit a width."""

    name_columns: int
    shown: Sequence[Column]

    def head(self, sort: Sort, *, is_turned: bool) -> Text:
        """What each is; the one that is sorted by has a mark."""
        mark = "▴" if is_turned else "▾"
        cells = [fit(f"name{mark if sort is Sort.NAME else ''}", self.name_columns)]
        for column in self.shown:
            if column.is_left:
                cells.append(" " * _GAP + column.head.ljust(column.width))
            else:
                mark_here = mark if column.sort is sort else ""
                cells.append((mark_here + column.head).rjust(column.width + _GAP))
        return Text("".join(cells), style="bold", no_wrap=True, end="")

    def line(self, row: Row, *, is_selected: bool = False) -> Text:
        """One machine."""
        style = "reverse" if is_selected else ""
        if row.condition in (Condition.SILENT, Condition.UNREACHED) and not is_selected:
            style = "dim"
        text = Text(fit(row.name, self.name_columns), style=style, no_wrap=True, end="")
        for column in self.shown:
            cell = column.text(row)
            if column.is_left:
                text.append(" " * _GAP)
                is_state = column.head == "state" and not is_selected
                text.append(
                    fit(cell, column.width), _STYLES.get(row.condition, "") if is_state else ""
                )
            else:
                text.append(" " * _GAP + fit(cell.rjust(column.width), column.width))
        return text


def table_for(columns: int, rows: Sequence[Row]) -> Table:
    """As many columns as fit, the most needed ones first, and names as wide as is left for them."""
    kinds = max((len(row.key.kind) for row in rows), default=0)
    room = columns - _NAME_LEAST
    shown: list[Column] = []
    is_piloted = any(row.piloted is not None for row in rows)
    wanted = (one for one in COLUMNS if is_piloted or one.text is not _needs)
    for column in sorted(wanted, key=lambda one: one.rank):
        if column.head == "kind":
            column = replace(column, width=max(kinds, column.width))  # noqa: PLW2901
        if column.width + _GAP > room:
            break
        room -= column.width + _GAP
        shown.append(column)
    shown.sort(key=lambda one: _PLACES[one.head])
    names = max((cell_len(row.name) for row in rows), default=0)
    widest = max(_NAME_LEAST, min(names, _NAME_MOST))
    return Table(max(1, min(_NAME_LEAST + room, widest)), shown)


_PLACES: Final = {column.head: place for place, column in enumerate(COLUMNS)}
