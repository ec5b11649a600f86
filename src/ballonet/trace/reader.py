"""A trace read back, and the conversation in it in words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from ballonet.errors import SettingsError
from ballonet.trace.tracks import Track

_KINDS_MAX: Final = 16
#: Far above what the writer writes in one line; a file may come from anybody.
_LINE_MAX: Final = 1 << 16
_SECONDS_MAX: Final = 1e12
_AMOUNTS: Final = frozenset({"pages", "bytes", "ranges"})

__all__ = ["Line", "fold", "read_trace"]

_Kind = tuple[Track, str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Line:
    """One event; times in seconds from the start of the trace."""

    at_s: float
    track: Track
    name: str
    details: dict[str, object]
    seconds: float = 0.0
    count: int = 1  #: of equal events in a row, told as one

    @property
    def words(self) -> str:
        """What happened."""
        parts = [f"{name} {_shown(value)}" for name, value in self.details.items()]
        times = f", {self.count} times" if self.count > 1 else ""
        took = f" in {self.seconds * 1000:.2f} ms" if self.seconds else ""
        text = f"{self.name}{times}{': ' if parts else ''}{', '.join(parts)}{took}"
        return text if text.isprintable() else repr(text)[1:-1]


def read_trace(path: Path) -> Iterator[Line]:
    """Every event, in the order of its beginning in the file; a cut end is no error.

    Raises: SettingsError, if the file is no trace, once what stands before is told.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from _lines(path, file)
    except OSError as error:
        raise SettingsError(str(path), error.strerror, "a file that can be read") from error


def _lines(path: Path, file: TextIO) -> Iterator[Line]:
    """Every event of a file. Raises: SettingsError; OSError."""
    if file.readline(_LINE_MAX).strip() != "[":
        raise SettingsError(str(path), "another kind of file", "a trace of ballonet")
    number, unread = 1, 0
    while raw := file.readline(_LINE_MAX):
        number += 1
        if unread:  # only the last line can have been cut short by a crash
            raise SettingsError(f"{path}, line {unread}", "no event", "a trace of ballonet")
        try:
            line = _line(raw)
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
            unread = number
            continue
        if line is not None:
            yield line


def _line(raw: str) -> Line | None:
    """One line of the file; None for names of tracks, and for an end that was closed by hand.

    Raises: ValueError, LookupError, TypeError, ArithmeticError or RecursionError: it is no event.
    """
    text = raw.strip().rstrip(",]")
    if not text:
        return None
    event = json.loads(text, parse_float=_finite, parse_constant=_finite)
    if event["ph"] == "M":
        return None
    name, details = event["name"], event["args"]
    if not isinstance(name, str) or not isinstance(details, dict):
        raise TypeError("no event")
    times = (event["ts"] / 1e6, event.get("dur", 0.0) / 1e6)
    if any(abs(seconds) > _SECONDS_MAX for seconds in times):
        raise ValueError("no time")
    return Line(times[0], Track(event["tid"]), name, details, times[1])


def _finite(text: str) -> float:
    """A number that JSON has. Raises: ValueError."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def fold(lines: Iterable[Line]) -> Iterator[Line]:
    """Tell long runs of the same messages as one: amounts are added up.

    A run is what goes on with the same few kinds of events; its lines come at its end, in the
    order in which each kind was first seen.
    """
    run: dict[_Kind, Line] = {}
    try:
        for line in lines:
            yield from _continue(run, line)
    except SettingsError:  # what was read until then is told first
        yield from run.values()
        raise
    yield from run.values()


def _continue(run: dict[_Kind, Line], line: Line) -> Iterator[Line]:
    """Add a line to the run, or end the run with what does not go on."""
    key = (line.track, line.name, tuple(line.details))
    if key in run:
        run[key] = _added(run[key], line)
        return
    if run and (not _repeats(line) or len(run) >= _KINDS_MAX):
        yield from run.values()
        run.clear()
    if _repeats(line):
        run[key] = line
    else:
        yield line


def _repeats(line: Line) -> bool:
    return line.track not in (Track.HOST, Track.SOCKET)


def _added(old: Line, new: Line) -> Line:
    pairs = zip(old.details.items(), new.details.values(), strict=True)
    details = {name: _sum(name, value, more) for (name, value), more in pairs}
    return Line(
        old.at_s, old.track, old.name, details, old.seconds + new.seconds, old.count + new.count
    )


def _sum(name: str, old: object, new: object) -> object:
    """Amounts are added up; of anything else the last counts."""
    if name in _AMOUNTS and isinstance(old, int) and isinstance(new, int):
        return old + new
    return new


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
