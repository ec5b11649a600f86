"""A time line as a picture (SVG): a column an end, a row an event, and the way between them.

Rows are equally far apart, so that what follows in microseconds is as readable as what takes a
second; the time stands at the left.  Colours work on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

from ballonet.lab.time_line import Event, label, milliseconds

__all__ = ["as_svg"]

_NAMESPACE: Final = "http://www.w3.org/2000/svg"
_ROW: Final = 26
_COLUMN: Final = 190
_LEFT: Final = 120  # for the time
_RIGHT: Final = 330  # for what the last column says
_TOP: Final = 76
_DOT: Final = 4
_LETTERS: Final = 44  # of what an event says
_COLOURS: Final = ("#3b7dd8", "#d9822b", "#3a9a5b", "#b0489b", "#808080")
_STYLE: Final = (
    "text{font:13px sans-serif;fill:#808080}.end{font-weight:bold}.title{font-size:15px}"
    ".way{fill:none;stroke:#a0a0a080;stroke-width:1}.lane{stroke:#a0a0a040;stroke-width:1}"
)


def as_svg(title: str, events: Sequence[Event]) -> str:
    """The whole picture, as the text of its file."""
    ends = list(dict.fromkeys(event.end for event in events))
    width = _LEFT + _COLUMN * max(len(ends) - 1, 0) + _RIGHT
    height = _TOP + _ROW * (len(events) + 1)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="{_NAMESPACE}" {size} role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="12" y="24">{escape(title)}</text>',
        *_lanes(ends, height),
        *_ways(ends, events),
        *(part for row, event in enumerate(events) for part in _row(ends, events[0], row, event)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _lanes(ends: Sequence[str], height: int) -> Iterator[str]:
    for number, end in enumerate(ends):
        x, colour = _x(number), _colour(number)
        yield f'<line class="lane" x1="{x}" y1="{_TOP - 16}" x2="{x}" y2="{height - _ROW}"/>'
        style = f"fill:{colour}"
        yield f'<text class="end" style="{style}" x="{x}" y="{_TOP - 24}">{escape(end)}</text>'


def _ways(ends: Sequence[str], events: Sequence[Event]) -> Iterator[str]:
    points = " ".join(f"{_x(ends.index(one.end))},{_y(row)}" for row, one in enumerate(events))
    yield f'<polyline class="way" points="{points}"/>'


def _row(ends: Sequence[str], first: Event, row: int, event: Event) -> Iterator[str]:
    number, y = ends.index(event.end), _y(row)
    said = label(event)
    said = said if len(said) <= _LETTERS else f"{said[: _LETTERS - 1]}…"
    when = f"{milliseconds(event, first)} ms"
    yield f'<text x="{_LEFT - 30}" y="{y + 4}" text-anchor="end">{when}</text>'
    yield f'<circle cx="{_x(number)}" cy="{y}" r="{_DOT}" fill="{_colour(number)}"/>'
    x = _x(number) + 2 * _DOT + 2
    yield f'<text style="fill:{_colour(number)}" x="{x}" y="{y + 4}">{escape(said)}</text>'


def _x(number: int) -> int:
    return _LEFT + _COLUMN * number


def _y(row: int) -> int:
    return _TOP + _ROW * row


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
