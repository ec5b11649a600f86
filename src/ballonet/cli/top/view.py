"""What a person looks at, and what each key makes of it.

Pure: keys and rows in, what is to be done out.  A machine is selected by what it is called, so that
it stays so wherever its row goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ballonet.cli.cells import on_one_line
from ballonet.cli.top.rows import Row, RowKey, Sort, matching, sorted_rows
from ballonet.errors import SettingsError
from ballonet.units import parse_bytes

__all__ = ["Ask", "Mode", "Quit", "View"]

_SIZE_LIMITS: Final = (1, 1 << 62)
_TYPED_MOST: Final = 200


class Mode(Enum):
    """What the screen shows, and what keys mean."""

    TABLE = "table"
    FILTER = "filter"  #: a pattern is being typed
    SIZE = "size"  #: a size is being typed
    CHART = "chart"  #: one machine alone
    HELP = "help"


@dataclass(frozen=True, slots=True)
class Quit:
    """Nobody looks any more."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A machine is to have another size."""

    row: Row
    size_bytes: int | None  #: None: the least that it can live with


class View:
    """`feed` every key, `see` every round."""

    def __init__(self, sort: Sort = Sort.NAME) -> None:
        self.mode = Mode.TABLE
        self.sort, self.is_turned = sort, False
        self.pattern = ""
        self.typed = ""
        self.message = ""  #: something that was said to this person
        self.paused = False
        self.has_seen = False  #: a round; before that nothing is known of who is there
        self.all_rows: Sequence[Row] = ()
        self.rows: Sequence[Row] = ()  #: those that match, in their order
        self.page_lines = 1  #: how many rows fit; whoever draws says it
        self._selected: RowKey | None = None
        self._place = 0  # of the selected row; where it was, if it is gone
        self._below: Mode = Mode.TABLE  # what is shown again when something is closed

    def see(self, rows: Sequence[Row]) -> None:
        """Note a round."""
        self.has_seen, self.all_rows = True, rows
        self._arrange()

    @property
    def selected(self) -> Row | None:
        """The row that keys are about."""
        return self.rows[self._place] if self.rows else None

    def first_row(self, lines: int) -> int:
        """Of the page that has the selected row."""
        return max(0, min(self._place // lines * lines, len(self.rows) - lines))

    @property
    def shows_chart(self) -> bool:
        """One machine alone, also while a size for it is typed."""
        return Mode.CHART in (self.mode, self._below if self.mode is Mode.SIZE else None)

    @property
    def is_typing(self) -> bool:
        """A line is being typed."""
        return self.mode in (Mode.FILTER, Mode.SIZE)

    def feed(self, key: str) -> Quit | Ask | None:
        """Take a key; what is to be done besides drawing anew."""
        if self.is_typing:
            return self._feed_typed(key)
        if self.mode is Mode.HELP:
            self.mode = self._below
        elif key == "q":
            return Quit()
        elif (place := self._moved_to(key)) is not None:
            self._select(place)
        elif self.mode is Mode.TABLE and key in _SORTS:
            self._sort_by(_SORTS[key])
        else:
            self._command(key)
        return None

    def _moved_to(self, key: str) -> int | None:
        """The place that a key leads to; None: it is no such key."""
        match key:
            case "up" | "k":
                return self._place - 1
            case "down" | "j":
                return self._place + 1
            case "page up":
                return self._place - self.page_lines
            case "page down":
                return self._place + self.page_lines
            case "home":
                return 0
            case "end":
                return len(self.rows)
        return None

    def _command(self, key: str) -> None:
        match key:
            case "enter":
                self._enter()
            case "escape":
                self._escape()
            case "/" if self.mode is Mode.TABLE:
                self._open(Mode.FILTER)
            case "s" if self.selected is not None:
                self._open(Mode.SIZE)
            case "?":
                self._open(Mode.HELP)
            case "p" | " ":
                self.paused = not self.paused

    def _feed_typed(self, key: str) -> Ask | None:
        """A line is being typed."""
        if key == "escape":
            self._close_line()
        elif key == "enter":
            return self._take_line()
        elif key == "backspace":
            self.typed = self.typed[:-1]
        elif key == "clear":
            self.typed = ""
        elif len(key) == 1 and len(self.typed) < _TYPED_MOST:
            self.typed += key
        if self.mode is Mode.FILTER:
            self.pattern = self.typed
            self._arrange()
        return None

    def _take_line(self) -> Ask | None:
        """Raises nothing: a size that is none is told, and can be mended."""
        row, text = self.selected, self.typed.strip()
        is_size = self.mode is Mode.SIZE
        if is_size and row is not None and text:
            size_bytes = None
            if text.lower() != "min":
                try:
                    size_bytes = parse_bytes(text, key="size", limits=_SIZE_LIMITS)
                except SettingsError as error:
                    self.message = str(error)
                    return None
            self.mode, self.message = self._below, ""
            return Ask(row, size_bytes)
        self.mode = self._below
        return None

    def _close_line(self) -> None:
        if self.mode is Mode.FILTER:
            self.pattern = ""
            self._arrange()
        self.mode, self.message = self._below, ""

    def _arrange(self) -> None:
        """Filter and sort, and find the selected row again."""
        self.rows = sorted_rows(
            matching(self.all_rows, self.pattern), self.sort, is_turned=self.is_turned
        )
        gone = self._selected
        for place, row in enumerate(self.rows):
            if row.key == self._selected:
                self._place, gone = place, None
        self._select(self._place)
        if gone is None:
            return
        # What is looked at, or typed, must not silently be another's.
        self._below = Mode.TABLE
        if self.mode in (Mode.CHART, Mode.SIZE):
            self.mode, self.message = Mode.TABLE, f"{on_one_line(gone.name)} is gone"

    def _select(self, place: int) -> None:
        self._place = max(0, min(place, len(self.rows) - 1))
        self._selected = self.rows[self._place].key if self.rows else self._selected

    def _sort_by(self, sort: Sort) -> None:
        self.is_turned = sort is self.sort and not self.is_turned
        self.sort = sort
        self._arrange()

    def _open(self, mode: Mode) -> None:
        self._below = self.mode
        self.typed = self.pattern if mode is Mode.FILTER else ""
        self.mode, self.message = mode, ""

    def _enter(self) -> None:
        if self.selected is not None:
            self.mode = Mode.CHART if self.mode is Mode.TABLE else Mode.TABLE

    def _escape(self) -> None:
        """Back by one step."""
        if self.message:
            self.message = ""
        elif self.mode is Mode.CHART:
            self.mode = Mode.TABLE
        else:
            self.pattern = ""
            self._arrange()


_SORTS: Final[Mapping[str, Sort]] = {sort.value: sort for sort in Sort}
