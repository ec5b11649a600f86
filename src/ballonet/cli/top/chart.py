"""The last rounds of one machine, drawn: a bar a round, the newest at the right.

All bars of one machine have one scale, so that they can be compared.
Units: columns and lines of a terminal; bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.text import Text

from ballonet.units import format_short_bytes
from ballonet.vms.history import Point

__all__ = ["bars", "chart_lines"]

_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
#: Not known, which is not nothing.
_GAP: Final = "·"
#: What is drawn: member of a point, its name, its colour.
_SERIES: Final = (
    ("actual_bytes", "keeps", "cyan"),
    ("available_bytes", "available", "green"),
    ("held_bytes", "held by the host", "magenta"),
)


def bars(values: Sequence[int | None], top: int, columns: int, lines: int) -> list[str]:
    """The newest values as bars, `lines` high where they are `top`; the highest line first."""
    values = values[-columns:]
    pad = columns - len(values)
    drawn = []
    for line in reversed(range(lines)):
        cells = [_cell(value, top, line, lines) for value in values]
        drawn.append(" " * pad + "".join(cells))
    return drawn


def _cell(value: int | None, top: int, line: int, lines: int) -> str:
    if value is None:
        return " " if line else _GAP
    steps = round(max(0, min(value, top)) * lines * 8 / top) if top else 0
    if value > 0:
        steps = max(1, steps)  # little is not nothing
    return _EIGHTHS[max(0, min(8, steps - line * 8))]


def chart_lines(
    points: Sequence[Point], memory_bytes: int | None, columns: int, lines: int
) -> Iterator[Text]:
    """Three charts, one below the other, in no more than so many lines."""
    known = [value for point in points for value in point if value is not None]
    top = max([memory_bytes or 0, *known])
    high = max(1, lines // len(_SERIES) - 1)
    for name, title, colour in _SERIES:
        values = [getattr(point, name) for point in points]
        yield _title(title, values[-columns:], top)
        for line in bars(values, top, columns, high):
            yield Text(line, style=colour, no_wrap=True, end="")


def _title(title: str, values: Sequence[int | None], top: int) -> Text:
    known = [value for value in values if value is not None]
    text = Text(title, style="bold", no_wrap=True, end="")
    if not known:
        return text.append("  not known", "not bold")
    now = "?" if values[-1] is None else format_short_bytes(values[-1])
    least, most = format_short_bytes(min(known)), format_short_bytes(max(known))
    return text.append(f"  {now} now, {least} to {most}, of {format_short_bytes(top)}", "not bold")
