"""A trace read back, and the conversation in it in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ballonet.errors import SettingsError
from ballonet.trace.tracks import Track

_KINDS_MAX: Final = 16
_AMOUNTS: Final = frozenset({"pages", "bytes", "ranges"})

__all__ = ["Line", "fold", "read_trace"]


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
        return f"{self.name}{times}{': ' if parts else ''}{', '.join(parts)}{took}"


def read_trace(path: Path) -> Iterator[Line]:
    """Every event, in the order of its beginning in the file; a cut end is no error.

    Raises: SettingsError, if the file is no trace.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.readline().strip() != "[":
                raise SettingsError(str(path), "another kind of file", "a trace of ballonet")
            for raw in file:
                line = _line(raw)
                if line is not None:
                    yield line
    except OSError as error:
        raise SettingsError(str(path), error.strerror, "a file that can be read") from error


def _line(raw: str) -> Line | None:
    """One line of the file; None for names of tracks, and for one that was cut short."""
    try:
        event = json.loads(raw.strip().rstrip(",]"))
        if event["ph"] == "M":
            return None
        seconds = event.get("dur", 0.0) / 1e6
        at_s = event["ts"] / 1e6
        return Line(at_s, Track(event["tid"]), event["name"], event["args"], seconds)
    except (ValueError, KeyError, TypeError):
        return None


def fold(lines: Iterable[Line]) -> Iterator[Line]:
    """Tell long runs of the same messages as one: amounts are added up.

    A run is what goes on with the same few kinds of events; its lines come at its end, in the
    order in which each kind was first seen.
    """
    run: dict[tuple[Track, str, tuple[str, ...]], Line] = {}
    for line in lines:
        key = (line.track, line.name, tuple(line.details))
        if key in run:
            run[key] = _added(run[key], line)
        elif run and (not _repeats(line) or len(run) >= _KINDS_MAX):
            yield from run.values()
            run = {key: line} if _repeats(line) else {}
            if not run:
                yield line
        elif _repeats(line):
            run[key] = line
        else:
            yield line
    yield from run.values()


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
