"""A conversation as a sequence diagram (SVG): a column a party, a row a message, downwards.

Rows are equally far apart, so that what follows in microseconds is as readable as what takes a
second; the time stands at the left.  What is too long for its row is whole in the row's title,
which viewers show when one points at it.  Colours work on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final
from xml.sax.saxutils import escape

from ballonet.trace.reader import Line
from ballonet.trace.tracks import Track

__all__ = ["ROWS_MOST", "sequence_diagram"]

#: A picture with more is none that anybody reads.
ROWS_MOST: Final = 500

GUEST, VMM, DEVICE, HOST = range(4)
_PARTIES: Final = ("guest", "VMM", "device", "host")
#: From whom to whom what stands in a track goes, unless its name says otherwise.
_WAYS: Final[Mapping[Track, tuple[int, int]]] = {
    Track.HOST: (HOST, DEVICE),
    Track.SOCKET: (VMM, DEVICE),
    Track.CONFIG: (GUEST, DEVICE),
    Track.INFLATE: (GUEST, DEVICE),
    Track.DEFLATE: (GUEST, DEVICE),
    Track.STATS: (GUEST, DEVICE),
    Track.HINT: (GUEST, DEVICE),
    Track.REPORTING: (GUEST, DEVICE),
    Track.DISCARD: (DEVICE, HOST),
    Track.DEVICE: (DEVICE, DEVICE),
}
_NAMESPACE: Final = "http://www.w3.org/2000/svg"
_ROW: Final = 24
_COLUMN: Final = 210
_LEFT: Final = 150  # for the time
_RIGHT: Final = 130
_TOP: Final = 74
_HEAD: Final = 6  # of an arrow
_LETTERS: Final = 30  # beside an arrow
_OWN_LETTERS: Final = 44  # of what concerns one party only
_STYLE: Final = (
    "text{font:12px sans-serif;fill:#808080}.title{font-size:15px}.party{font-weight:bold}"
    ".lane{stroke:#a0a0a050}.way{stroke:#3b7dd8}.head{fill:#3b7dd8}.own{fill:#d9822b}"
)


def sequence_diagram(title: str, lines: Iterable[Line]) -> str:
    """The whole picture, as the text of its file; of more rows than it has the first are drawn."""
    told = iter(lines)
    drawn = list(islice(told, ROWS_MOST))
    left_out = sum(1 for _ in told)
    width = _LEFT + _COLUMN * (len(_PARTIES) - 1) + _RIGHT
    height = _TOP + _ROW * (len(drawn) + 2)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="{_NAMESPACE}" {size} role="img">',
        f"<title>{_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="12" y="24">{_text(title)}</text>',
        *_lanes(height),
        *(part for row, line in enumerate(drawn) for part in _message(row, line)),
    ]
    if left_out:
        y = _y(len(drawn)) + 4
        parts.append(f'<text x="{_LEFT}" y="{y}">and {left_out:,} more</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _lanes(height: int) -> Iterator[str]:
    for number, party in enumerate(_PARTIES):
        x = _x(number)
        yield f'<text class="party" x="{x}" y="{_TOP - 22}" text-anchor="middle">{party}</text>'
        yield f'<line class="lane" x1="{x}" y1="{_TOP - 14}" x2="{x}" y2="{height - _ROW}"/>'


def _message(row: int, line: Line) -> Iterator[str]:
    begin, end = _way(line)
    y, words = _y(row), line.words
    yield f"<g><title>{_text(words)}</title>"
    yield f'<text x="{_LEFT - 70}" y="{y + 4}" text-anchor="end">{line.at_s:.6f}</text>'
    if begin == end:
        yield f'<circle class="own" cx="{_x(begin)}" cy="{y}" r="4"/>'
        yield f'<text x="{_x(begin) + 10}" y="{y + 4}">{_cut(words, _OWN_LETTERS)}</text>'
    else:
        yield from _arrow(begin, end, y)
        middle = (_x(begin) + _x(end)) / 2
        text = _cut(words, _LETTERS * abs(end - begin))
        yield f'<text x="{middle:g}" y="{y - 4}" text-anchor="middle">{text}</text>'
    yield "</g>"


def _arrow(begin: int, end: int, y: int) -> Iterator[str]:
    tip, back = _x(end), _HEAD if end < begin else -_HEAD
    yield f'<line class="way" x1="{_x(begin)}" y1="{y}" x2="{tip}" y2="{y}"/>'
    points = f"{tip},{y} {tip + back},{y - 4} {tip + back},{y + 4}"
    yield f'<polygon class="head" points="{points}"/>'


def _way(line: Line) -> tuple[int, int]:
    """Calls and announcements go the other way; rounds of hints are the device's own."""
    begin, end = _WAYS[line.track]
    if line.name in ("call", "config change sent"):
        return end, begin
    if line.track is Track.HINT and line.name.startswith("round "):
        return DEVICE, DEVICE
    if line.track is Track.DEVICE and line.name.endswith(" sent"):
        return DEVICE, VMM
    return begin, end


def _cut(words: str, letters: int) -> str:
    return _text(words if len(words) <= letters else f"{words[: letters - 1]}…")


def _text(words: str) -> str:
    """What a picture may say: control characters are none of XML's."""
    return escape("".join(letter if letter.isprintable() else "?" for letter in words))


def _x(party: int) -> int:
    return _LEFT + _COLUMN * party


def _y(row: int) -> int:
    return _TOP + _ROW * row + 8
