"""A guest of few pages that is moved by the passes of a real migration, and acts by a script.

One page matters: it is free and hinted, then the guest takes it back and writes to it; after the
log was read it writes once more while the page is being sent.  What a migration asks of its source
is done in the right order, or with one thing out of order; every step is written down.
It has no memory of its own: a page's contents are a number, which grows with each write.
Source: QEMU migration/ram.c migration_bitmap_sync_precopy, migration_bitmap_clear_dirty.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np

from ballonet.errors import MigrationError
from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.migration.hint_filter import HintFilter
from ballonet.migration.passes import Passes
from ballonet.migration.settings import MigrationSettings

__all__ = ["Clearing", "Hinting", "Moved", "move"]

_PAGES: Final = 8
_THE_PAGE: Final = 5
_PAGE_NS: Final = 1_000
#: Far more than are needed: a script that never ends is a fault of the passes.
_PASSES_MAX: Final = 20


class Hinting(Enum):
    """When the migration hears of the hint."""

    IN_ITS_ROUND = "in its own round"
    LATE = "after the log was read, as one of the round before"
    LATE_AS_NEW = "after the log was read, as one of the round under way"


class Clearing(Enum):
    """When the log of a page begins anew."""

    WHEN_READ = "as it is read, before the page is sent"
    WHEN_SENT = "after the page was sent"


@dataclass(frozen=True, slots=True)
class Moved:
    """How it went."""

    steps: tuple[str, ...]
    has: int  #: the page's contents at the source, when the guest was stopped
    arrived: int | None  #: and at the destination; None: it was never sent

    @property
    def is_lost(self) -> bool:
        """The destination does not have what the guest wrote."""
        return self.has != self.arrived


def move(hinting: Hinting, clearing: Clearing) -> Moved:
    """Move the guest. Raises: MigrationError, if that does not end."""
    guest = _Guest(hinting, clearing)
    hints = HintFilter(_Hints(guest), sees_writes=True)
    settings = MigrationSettings(downtime_ns=0, head_start_ns=1)
    Passes(guest, np.ones(_PAGES, np.bool_), settings, guest, hints=hints).run()
    return Moved(tuple(guest.steps), int(guest.content[_THE_PAGE]), guest.arrived.get(_THE_PAGE))


class _Guest:
    """A `Source`, and the `Clock` by which it is moved."""

    def __init__(self, hinting: Hinting, clearing: Clearing) -> None:
        self.hinting, self._clearing = hinting, clearing
        self.content = np.ones(_PAGES, np.int64)
        self.arrived: dict[int, int] = {}
        self.steps: list[str] = []
        self.rounds = 0
        self.has_taken_back = False
        self._has_written_again = False
        self._log: set[int] = set()
        self._now_ns = 0

    def note(self, step: str) -> None:
        self.steps.append(step)

    def now_ns(self) -> int:
        return self._now_ns

    def wall_s(self) -> int:
        return 0

    def write(self, why: str) -> None:
        """The guest writes to the page."""
        self.content[_THE_PAGE] += 1
        self._log.add(_THE_PAGE)
        self.note(f"    the guest {why} page {_THE_PAGE}: it holds {self.content[_THE_PAGE]} now")

    def start_tracking(self) -> None:
        self.note("every write is seen from now on")

    def stop_tracking(self) -> None:
        """Nothing to do."""

    def read_guest_log(self) -> PageRuns:
        pages = sorted(self._log)
        begins_anew = self._clearing is Clearing.WHEN_READ
        if begins_anew:
            self._log.clear()
        names = f"page {pages[0]} was written" if pages else "nothing was written"
        self.note(f"log read{' and begun anew' if begins_anew else ''}: {names}")
        return merge_pfns(np.array(pages, np.uint64))

    def read_device_log(self) -> PageRuns:
        return merge_pfns(np.array([], np.uint64))

    def send(self, runs: PageRuns) -> int:
        pages = [page for first, count in runs.pairs() for page in range(first, first + count)]
        for page in pages:
            self.arrived[page] = int(self.content[page])
        listed = ", ".join(map(str, pages))
        is_in = _THE_PAGE in pages
        held = f" (page {_THE_PAGE} holds {self.content[_THE_PAGE]})" if is_in else ""
        self.note(f"sent: {listed}{held}")
        self._act_after(pages)
        if self._clearing is Clearing.WHEN_SENT:
            self._log -= set(pages)
            self.note(f"log begun anew for: {listed}")
        self._now_ns += len(pages) * _PAGE_NS
        if self.rounds > _PASSES_MAX:
            raise MigrationError("the passes do not come to an end")
        return len(pages)

    def _act_after(self, pages: list[int]) -> None:
        """What the guest does while these are on their way."""
        if not self.has_taken_back:
            self.has_taken_back = True
            self.write("takes back and writes")
        elif _THE_PAGE in pages and not self._has_written_again:
            self._has_written_again = True
            self.write("writes")

    def pause(self, ns: int) -> None:
        self._now_ns += ns

    def throttle(self, percent: int) -> None:
        """Its script says when it acts."""

    def stop_guest(self) -> None:
        self.note("the guest stands still")

    def resume_guest(self) -> None:
        """It has moved, or nobody looks any more."""

    def send_holes(self) -> None:
        """There are none."""

    def send_checksums(self, runs: PageRuns) -> None:
        """Whoever asks compares it all."""

    def send_state(self) -> None:
        """It has none."""

    def commit(self) -> None:
        self.note("the guest goes on at the destination")


class _Hints:
    """A `HintSource` whose guest names one page, once."""

    def __init__(self, guest: _Guest) -> None:
        self._guest = guest
        self._is_told = False

    def begin(self) -> int:
        self._guest.rounds += 1
        self._guest.note(f"hint round {self._guest.rounds} begins")
        return self._guest.rounds

    def take(self, wait_ns: int) -> Iterable[tuple[int, PageRuns]]:
        guest = self._guest
        if wait_ns and guest.rounds == 1:
            guest.note(f"    the guest hints page {_THE_PAGE}, which is free")
        is_late = guest.hinting is not Hinting.IN_ITS_ROUND
        if self._is_told or guest.rounds != (2 if is_late else 1):
            return []
        self._is_told = True
        number = 1 if guest.hinting is Hinting.LATE else guest.rounds
        guest.note(f"the hint of page {_THE_PAGE} is heard, as one of round {number}")
        return [(number, merge_pfns(np.array([_THE_PAGE], np.uint64)))]

    def stop(self) -> None:
        self._guest.note(f"hint round {self._guest.rounds} stopped")

    def done(self) -> None:
        """It moves, and is told there."""
