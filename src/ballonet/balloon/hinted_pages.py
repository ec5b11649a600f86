"""The pages that a driver has hinted in one round, for whoever leaves them out of a pass.

Only hints that carry the round's own id count, whenever they come: one of an older round was given
before the dirty log was read for this one, so its page may hold bytes that nobody has sent.
Not here: whether a page may be left out (that is for the pass to know).
Units: balloon pages.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ballonet.balloon.facts import PagesHinted
from ballonet.memory.runs import PageRuns

__all__ = ["RUNS_MAX", "HintedPages", "join_runs"]

#: 16 MiB of them; Linux hints blocks of 4 MiB, so these would be 4 TiB of guest.  What is beyond
#: is sent like any other page.
RUNS_MAX: Final = 1 << 20
#: Hints that wait to be joined: one by one would be slow.
_WAITING_MAX: Final = 4096


class HintedPages:
    """One round at a time; for one thread."""

    def __init__(self) -> None:
        self.cmd_id: int | None = None  #: of the round; None: there is none
        self._runs = _no_runs()
        self._waiting: list[PageRuns] = []
        self._waiting_runs = 0

    def begin(self, cmd_id: int | None) -> None:
        """Another round, or none: all hints of the one before are forgotten."""
        self.cmd_id = cmd_id
        self._runs = _no_runs()
        self._waiting.clear()
        self._waiting_runs = 0

    def add(self, hinted: PagesHinted) -> None:
        """Keep what the driver has hinted, if it belongs to the round."""
        if hinted.cmd_id != self.cmd_id or not hinted.runs.pages.size:
            return
        self._waiting.append(hinted.runs)
        self._waiting_runs += hinted.runs.pages.size
        if self._waiting_runs > _WAITING_MAX:
            self._join()

    def take(self, runs_max: int) -> PageRuns:
        """The lowest runs that were not taken yet, at most so many; they are forgotten here."""
        self._join()
        firsts, pages = self._runs
        self._runs = PageRuns(firsts[runs_max:], pages[runs_max:])
        return PageRuns(firsts[:runs_max], pages[:runs_max])

    @property
    def has_more(self) -> bool:
        """There is something to take."""
        return bool(self._waiting or self._runs.pages.size)

    def _join(self) -> None:
        if self._waiting:
            firsts, pages = join_runs([self._runs, *self._waiting])
            self._runs = PageRuns(firsts[:RUNS_MAX], pages[:RUNS_MAX])
            self._waiting.clear()
            self._waiting_runs = 0


def join_runs(parts: list[PageRuns]) -> PageRuns:
    """All pages of some runs, which may overlap, as runs."""
    firsts = np.concatenate([part.first_pfns for part in parts])
    ends = firsts + np.concatenate([part.pages for part in parts])
    order = np.argsort(firsts, kind="stable")
    firsts, ends = firsts[order], np.maximum.accumulate(ends[order])
    if not firsts.size:
        return _no_runs()
    begins = np.flatnonzero(firsts[1:] > ends[:-1]) + 1
    starts = firsts[np.concatenate(([0], begins))]
    stops = ends[np.concatenate((begins, [ends.size])) - 1]
    return PageRuns(starts, stops - starts)


def _no_runs() -> PageRuns:
    return PageRuns(np.empty(0, np.int64), np.empty(0, np.int64))
