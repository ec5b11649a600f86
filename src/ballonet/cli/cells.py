"""Texts of other people's in a terminal: what they show, and how many columns they take.

A name may hold anything: it must neither steer the terminal nor move what stands beside or above.
"""

from __future__ import annotations

import re
from typing import Final

from rich.cells import cell_len, chop_cells, set_cell_size

__all__ = ["fit", "on_one_line", "wrapped"]

#: Marks that stand on a letter: of a pile of them a terminal would draw over other lines.
_MARKS_MOST: Final = 2
#: They make the letter before them wider in some terminals, and not in others.
_VARIATION_SELECTORS: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_ASCII: Final = re.compile("[ -~]*")


def on_one_line(text: str) -> str:
    """What can be shown of a text without obeying it, on one line; � for what cannot."""
    if _ASCII.fullmatch(text):
        return text
    shown, marks = [], _MARKS_MOST  # the first letter has nothing to stand on
    for letter in _VARIATION_SELECTORS.sub("", text):
        if not letter.isprintable():
            letter = "�"  # noqa: PLW2901
        marks = 0 if cell_len(letter) else marks + 1
        if marks <= _MARKS_MOST:
            shown.append(letter)
    return "".join(shown)


def fit(text: str, columns: int) -> str:
    """Exactly so many columns: filled up, or cut with an ellipsis."""
    if cell_len(text) > columns > 0:
        text = set_cell_size(text, columns - 1) + "…"
    return set_cell_size(text, columns)


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of no more than so many columns; a word that is longer than a line is broken."""
    lines, line = [], ""
    for word in text.split():
        room = columns - cell_len(line) - 1
        if line and cell_len(word) <= room:
            line += f" {word}"
            continue
        if line:
            lines.append(line)
        *whole, line = chop_cells(word, max(2, columns)) or [""]
        lines += whole
    return [*lines, line] if line else lines
