"""What `ballonet top` knows of each machine, round after round, and in which order it is shown.

Units: bytes, seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from ballonet.cli.cells import on_one_line
from ballonet.vms.condition import Condition, ConditionWatch
from ballonet.vms.discovery import Found
from ballonet.vms.history import History, Point
from ballonet.vms.observation import Observation
from ballonet.vms.rates import Rates

__all__ = ["Piloted", "Row", "RowKey", "Sort", "Tracks", "matching", "sorted_rows"]

#: Statistics that are this old are told to be, if nobody asks for them less often.
_OLD_S: Final = 10.0
#: One that is seen for the first time has so long to answer before it is called silent.
_FIRST_S: Final = 2.0


class RowKey(NamedTuple):
    """A machine over all rounds, also when it was started again meanwhile."""

    kind: str
    name: str
    number: int = 0  #: among those of the same kind and name


class Piloted(NamedTuple):
    """What the autopilot thinks of a machine."""

    state: str
    need_bytes: int | None  #: None: its guest has not said
    wanted_bytes: int  #: it is to keep
    because: str
    is_dry_run: bool  #: it would be asked, and is not


@dataclass(frozen=True, slots=True)
class Row:
    """One machine in one round; None: not known."""

    key: RowKey
    found: Found
    condition: Condition = Condition.QUIET
    suffers_from: str | None = None
    guest_rates: Mapping[str, float] | None = None  #: None: its statistics are old
    device_rates: Mapping[str, float] | None = None
    points: Callable[[], Sequence[Point]] = tuple  #: its last rounds, the oldest first
    piloted: Piloted | None = None  #: None: there is no autopilot here, or it does not know it
    note: str = ""  #: what came of the newest request for a size that was made here

    @property
    def look(self) -> Observation:
        """What it tells."""
        return self.found.observation

    @property
    def name(self) -> str:
        """As a terminal can show it."""
        return on_one_line(self.look.who.name)

    @property
    def used_bytes(self) -> int | None:
        """What the guest could not do without: the part of what it keeps that is not available."""
        actual_bytes, available_bytes = self.look.actual_bytes, self.look.available_bytes
        if actual_bytes is None or available_bytes is None:
            return None
        # More than all cannot be available: the two are of different moments of a change.
        return actual_bytes - available_bytes if available_bytes <= actual_bytes else None

    @property
    def caches_bytes(self) -> int | None:
        """Files that the guest keeps in memory."""
        caches = self.look.statistics.get("caches")
        return None if caches is None else caches.value

    @property
    def is_old(self) -> bool:
        """Its statistics are."""
        return _is_old(self.look)

    def guest_rate(self, name: str) -> float | None:
        """How fast one of its statistics grows."""
        return None if self.guest_rates is None else self.guest_rates.get(name)


class Tracks:
    """Each machine's rounds so far; those that are gone are forgotten."""

    def __init__(self) -> None:
        self._tracks: dict[RowKey, _Track] = {}
        self._past: dict[RowKey, Sequence[Point]] = {}

    def recall(self, past: Mapping[str, Sequence[Point]]) -> None:
        """What others have seen of machines that are to come, by `kind:name`."""
        for name, points in past.items():
            kind, _, own_name = name.partition(":")
            self._past[RowKey(kind, own_name)] = points

    def see(self, found: Iterable[Found]) -> list[Row]:
        """One row for each machine of a round, in their order."""
        before, self._tracks = self._tracks, {}
        rows = []
        for one in found:
            who = one.observation.who
            key = RowKey(who.kind, who.name)
            while key in self._tracks:
                key = key._replace(number=key.number + 1)
            track = self._tracks[key] = before.get(key) or _Track(self._past.pop(key, ()))
            rows.append(track.see(key, one))
        return rows


class _Track:
    def __init__(self, before: Sequence[Point]) -> None:
        self._rates, self._history, self._watch = Rates(), History(before), ConditionWatch()

    def see(self, key: RowKey, found: Found) -> Row:
        look = found.observation
        self._rates.see(look)
        self._history.see(look)
        condition = self._watch.see(look)
        if found.silent_s is not None:
            condition = Condition.SILENT if found.silent_s >= _FIRST_S else Condition.QUIET
        elif found.why_not:
            condition = Condition.UNREACHED
        return Row(
            key,
            found,
            condition,
            self._watch.suffers_from,
            None if _is_old(look) else self._rates.guest,
            self._rates.device,
            lambda: self._history.points,
        )


def _is_old(look: Observation) -> bool:
    age_s, interval_s = look.stats_age_s, look.poll_interval_s or 0
    return age_s is not None and age_s > max(_OLD_S, 3.0 * interval_s)


class Sort(Enum):
    """By what rows are sorted; the value is the letter that chooses it."""

    NAME = "n"
    AVAILABLE = "a"
    USED = "u"
    HELD = "h"
    RATE = "r"


def matching(rows: Iterable[Row], text: str) -> list[Row]:
    """Those whose name or `kind:name` a pattern matches, or contains a word without `*?[`."""
    pattern = text if set("*?[") & set(text) else f"*{text}*"
    return [
        row
        for row in rows
        if fnmatchcase(row.name, pattern) or fnmatchcase(f"{row.key.kind}:{row.name}", pattern)
    ]


def sorted_rows(rows: Sequence[Row], sort: Sort, *, is_turned: bool = False) -> list[Row]:
    """What needs a look first: least available, most used, held, read from disk; unknown last."""
    by_name = sorted(rows, key=lambda row: (row.name, row.key))
    if sort is Sort.NAME:
        return by_name[::-1] if is_turned else by_name
    value_of, is_most_first = _VALUES[sort]
    known = [row for row in by_name if value_of(row) is not None]
    unknown = [row for row in by_name if value_of(row) is None]
    known.sort(key=lambda row: value_of(row) or 0, reverse=is_most_first is not is_turned)
    return known + unknown


#: What each is sorted by, and whether the most come first.
_VALUES: Final[Mapping[Sort, tuple[Callable[[Row], float | None], bool]]] = {
    Sort.AVAILABLE: (lambda row: row.look.available_bytes, False),
    Sort.USED: (lambda row: row.used_bytes, True),
    Sort.HELD: (lambda row: row.look.host.held_bytes, True),
    Sort.RATE: (lambda row: row.guest_rate("majflt"), True),
}
