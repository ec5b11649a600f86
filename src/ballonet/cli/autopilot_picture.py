"""What each machine used, needed, kept and was to keep, drawn over time (SVG).

A panel a machine, all with one time; each has its own scale.  Colours work on a light and on a dark
page.  Units: bytes, seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from ballonet.units import format_bytes

__all__ = ["Track", "as_svg"]

_NAMESPACE: Final = "http://www.w3.org/2000/svg"
_WIDTH, _LEFT, _RIGHT = 900, 90, 20
_TOP, _PANEL, _GAP = 70, 120, 36
_COLOURS: Final[Mapping[str, str]] = {
    "used": "#3a9a5b",
    "needs": "#d9822b",
    "keeps": "#3b7dd8",
    "asked for": "#b0489b",
}
_STYLE: Final = (
    "text{font:12px sans-serif;fill:#808080}.title{font-size:15px}"
    "polyline{fill:none;stroke-width:1.5}rect{fill:none;stroke:#80808060}"
)


class Track(NamedTuple):
    """One machine: of each moment the sizes, by name; None: not known."""

    vm: str
    points: list[tuple[float, Mapping[str, int | None]]]


def as_svg(title: str, tracks: Sequence[Track]) -> str:
    """The whole picture, as the text of its file."""
    end_s = max((track.points[-1][0] for track in tracks), default=0.0) or 1.0
    height = _TOP + len(tracks) * (_PANEL + _GAP)
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="{_NAMESPACE}" {size} role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="12" y="24">{escape(title)}</text>',
        *_legend(),
        *(part for row, track in enumerate(tracks) for part in _panel(row, track, end_s)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _legend() -> Iterator[str]:
    for number, (name, colour) in enumerate(_COLOURS.items()):
        x = _LEFT + 120 * number
        yield f'<line x1="{x}" y1="44" x2="{x + 20}" y2="44" stroke="{colour}" stroke-width="2"/>'
        yield f'<text x="{x + 26}" y="48">{name}</text>'


def _panel(row: int, track: Track, end_s: float) -> Iterator[str]:
    top = _TOP + row * (_PANEL + _GAP)
    known = [size for _, sizes in track.points for size in sizes.values() if size is not None]
    most = max(known, default=1) or 1
    width = _WIDTH - _LEFT - _RIGHT
    yield f'<rect x="{_LEFT}" y="{top}" width="{width}" height="{_PANEL}"/>'
    yield f'<text x="{_LEFT + 6}" y="{top - 6}">{escape(track.vm)}</text>'
    yield f'<text x="{_LEFT - 8}" y="{top + 10}" text-anchor="end">{format_bytes(most)}</text>'
    yield f'<text x="{_LEFT - 8}" y="{top + _PANEL}" text-anchor="end">0</text>'
    last = f"{end_s:.0f} s"
    yield f'<text x="{_WIDTH - _RIGHT}" y="{top + _PANEL + 16}" text-anchor="end">{last}</text>'
    for name, colour in _COLOURS.items():
        for piece in _pieces(track, name):
            points = " ".join(
                f"{_LEFT + at_s / end_s * width:.1f},{top + _PANEL * (1 - size / most):.1f}"
                for at_s, size in piece
            )
            yield f'<polyline stroke="{colour}" points="{points}"/>'


def _pieces(track: Track, name: str) -> Iterator[list[tuple[float, int]]]:
    """A line for each stretch of time in which the size is known."""
    piece: list[tuple[float, int]] = []
    for at_s, sizes in track.points:
        size = sizes.get(name)
        if size is not None:
            piece.append((at_s, size))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece
