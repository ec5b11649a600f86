"""The whole screen of `ballonet top`, line by line; only rows that are seen are made.

Units: columns and lines of a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from ballonet.cli.cells import on_one_line, wrapped
from ballonet.cli.top.chart import chart_lines
from ballonet.cli.top.columns import COLUMNS, table_for
from ballonet.cli.top.rows import Row, Sort
from ballonet.cli.top.summary import details, host_in_words, machines_in_words
from ballonet.cli.top.view import Mode, View
from ballonet.units import format_bytes
from ballonet.vms.condition import Condition
from ballonet.vms.this_host import HostLook

__all__ = ["Scene", "once_lines", "screen_lines"]

_GAP: Final = "  "
#: With fewer lines, what stands around the table goes first.
_TABLE_LEAST: Final = 4
_DETAIL_LINES_MOST: Final = 4
_LOOKING: Final = "looking for VMs ..."
_NOBODY: Final = "no VM runs here, as far as this user may see"
_NOTHING_TO_SAY: Final = (Condition.QUIET, Condition.ARRIVED)
_HINTS: Final = {
    Mode.TABLE: "? help  q quit  enter chart  s size  / filter  n a u h r sort  p pause",
    Mode.CHART: "? help  q quit  esc back  s size  up, down others  p pause",
}
_KEYS: Final = (
    ("up, down", "select a VM; also page up, page down, home, end"),
    ("enter", "its last rounds as a chart; esc goes back"),
    ("s", "what it is to keep: 512M; min: it can live with"),
    ("/", "show names with a word, or web*; esc shows all"),
    ("n a u h r", "sort by name, avail, used, held, faults/s"),
    ("p", "pause: nobody is asked"),
    ("q", "quit"),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What is the same for all machines of a round."""

    clock: str
    interval_s: float
    host: HostLook


def screen_lines(view: View, scene: Scene, columns: int, lines: int) -> list[Text]:
    """Exactly so many lines, none longer than so many columns."""
    below = _below(view, columns)
    above = [] if view.mode is Mode.HELP else _head(view.all_rows, view, scene, columns)
    if lines - len(below) - len(above) < _TABLE_LEAST:
        above = []
    if lines - len(below) < _TABLE_LEAST:
        below = below[-1:] if lines > 1 or view.is_typing else []
    room = lines - len(above) - len(below)
    body = [*above, *_body(view, columns, room)[:room]]
    body += [Text()] * (lines - len(below) - len(body))
    return [*body, *below]


def once_lines(rows: Sequence[Row], scene: Scene, columns: int, sort: Sort) -> Iterable[Text]:
    """The same of one round for whoever reads it later: every row, and no keys."""
    yield from _head(rows, None, scene, columns)
    if not rows:
        yield Text(_NOBODY)
        return
    table = table_for(columns, rows)
    for line in (table.head(sort, is_turned=False), *map(table.line, rows)):
        line.rstrip()
        yield line
    for row in rows:
        if row.found.why_not or row.look.problem or row.condition not in _NOTHING_TO_SAY:
            first, *rest = wrapped(details(row), columns - len(_GAP))
            yield Text(first)
            yield from (Text(_GAP + line) for line in rest)


def _head(rows: Sequence[Row], view: View | None, scene: Scene, columns: int) -> list[Text]:
    count = f"{len(rows)} VM" + ("" if len(rows) == 1 else "s")
    pace = f"every {scene.interval_s:g} s"
    if view is not None:
        if view.pattern:
            count = f"{len(view.rows)} of {count} like {on_one_line(view.pattern)}"
        pace = "PAUSED" if view.paused else pace
    parts = ["ballonet top", scene.clock, count, *([pace] if view is not None else [])]
    more = [*host_in_words(scene.host), *machines_in_words(rows)]
    first, *rest = [*_joined(parts, columns), *_joined(more, columns)]
    return [Text(first, style="bold", no_wrap=True), *map(Text, rest)]


def _joined(parts: Iterable[str], columns: int) -> list[str]:
    """Side by side, on as many lines as they need."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1]) + len(_GAP) + cell_len(part) <= columns:
            lines[-1] += _GAP + part
        else:
            lines += wrapped(part, columns)
    return lines


def _body(view: View, columns: int, lines: int) -> list[Text]:
    if view.mode is Mode.HELP:
        return _help(columns)
    row = view.selected
    if row is None:
        nobody = "no VM here is like that" if view.all_rows else _NOBODY
        return [Text(line) for line in wrapped(nobody if view.has_seen else _LOOKING, columns)]
    if view.shows_chart:
        return _chart(row, columns, lines)
    view.page_lines = max(1, lines - 1)
    first = view.first_row(view.page_lines)
    seen = view.rows[first : first + view.page_lines]
    table = table_for(columns, view.rows)
    head = [table.head(view.sort, is_turned=view.is_turned)] if lines > 1 else []
    return [*head, *(table.line(one, is_selected=one.key == row.key) for one in seen)]


def _chart(row: Row, columns: int, lines: int) -> list[Text]:
    figures = [
        f"{one.head} {one.text(row)}" for one in COLUMNS if one.head != "kind" and one.text(row)
    ]
    head = [Text(row.name, style="bold")]
    head += [Text(line) for line in _joined(figures, columns)]
    drawn = chart_lines(row.points(), row.look.memory_bytes, columns, lines - len(head))
    return [*head, *drawn]


def _help(columns: int) -> list[Text]:
    """Keys and columns."""
    lines = [Text("keys", style="bold")]
    lines += _explained(_KEYS, columns)
    lines.append(Text("columns", style="bold"))
    lines += _explained(((one.head, one.meaning) for one in COLUMNS), columns)
    return lines


def _explained(rows: Iterable[tuple[str, str]], columns: int) -> list[Text]:
    lines = []
    for word, meaning in rows:
        first, *rest = wrapped(meaning, max(8, columns - 11))
        lines.append(Text(f"{word:9}  {first}"))
        lines += [Text(" " * 11 + line) for line in rest]
    return lines


def _below(view: View, columns: int) -> list[Text]:
    """About the selected machine, what was said, what is typed or could be."""
    lines: list[Text] = []
    row = view.selected
    if row is not None and view.mode is not Mode.HELP:
        text = details(row)
        if row.note and row.note not in view.message:
            text += f"; {on_one_line(row.note)}"
        words = wrapped(text, columns)[:_DETAIL_LINES_MOST]
        lines += [Text(line, style="dim") for line in words]
    lines += [Text(line, style="bold") for line in wrapped(on_one_line(view.message), columns)]
    lines.append(_last_line(view, row, columns))
    return lines


def _last_line(view: View, row: Row | None, columns: int) -> Text:
    prompt = None
    if view.mode is Mode.FILTER:
        prompt = "show names with: "
    elif view.mode is Mode.SIZE and row is not None:
        keeps, all_of_it = row.look.actual_bytes, row.look.memory_bytes
        now = "" if keeps is None else f", {format_bytes(keeps)} now"
        now += "" if all_of_it is None else f" of {format_bytes(all_of_it)}"
        prompt = f"{row.name} is to keep (512M, min{now}): "
    if prompt is not None:
        line = f"{prompt}{on_one_line(view.typed)}▏"
        while cell_len(line) > columns:
            line = line[1:]  # the end is what is typed
        return Text(line, style="bold")
    if view.mode is Mode.HELP:
        return Text("any key goes back", style="dim")
    hints = _HINTS[view.mode].split(_GAP)
    return Text(_joined(hints, columns)[0], style="dim")
