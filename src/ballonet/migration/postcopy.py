"""Post-copy: the guest goes on at the destination while some of its memory is still at the source.

Two machines.  `MissingPages` at the destination knows what has to come: a page is asked for once,
put in its place once whatever arrives twice, and what never was to come is a hole.  `ServedPages`
at the source knows what has to go: what is asked for and what follows it, then the rest.
A channel that breaks costs nothing: both wait, the destination then says what it has received, and
the source goes on with everything else, also with what was on its way.
The page tables of the destination notice its guest alone: other processes with a mapping of the
same file, as the device's, find zeros in a page that is missing.  So what they use, rings and
the driver's buffers, never is: it comes with the last pass, before the guest goes on.
Not here: the faults themselves (missing), the stream.
Units: balloon pages; sets of pages are bool arrays with a place for each pfn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from itertools import starmap
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import GuestMemoryError, PeerError, UsageError
from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.units import BALLOON_PAGE_BYTES, pages_to_bytes

__all__ = [
    "FaultAnswer",
    "MissingPages",
    "Run",
    "ServedPages",
    "as_set",
    "pages_of_ranges",
    "runs_of",
]

Pages = NDArray[np.bool_]
Int64s = NDArray[np.int64]

#: How far to look for scattered pages, in multiples of how many are sent at once.
_LOOK_AHEAD: Final = 16


class Run(NamedTuple):
    """Adjacent balloon pages."""

    first_pfn: int
    pages: int


class FaultAnswer(Enum):
    """What to do about an access to a page that is not there."""

    ASK = auto()  #: ask the source for it
    WAIT = auto()  #: it has been asked for
    ZERO = auto()  #: it is not to come: a hole, which reads as zeros


class MissingPages:
    """What the destination has still to get."""

    def __init__(self, missing: Pages) -> None:
        self._announced = missing.copy()
        self._missing = missing.copy()
        self._asked = np.zeros(missing.size, np.bool_)
        self.left_pages = int(np.count_nonzero(missing))  #: still to come

    @property
    def all_pages(self) -> int:
        """Of the guest's memory."""
        return int(self._missing.size)

    def fault(self, pfn: int) -> FaultAnswer:
        """The guest waits at a page."""
        if not self._missing[pfn]:
            return FaultAnswer.ZERO
        if self._asked[pfn]:
            return FaultAnswer.WAIT
        self._asked[pfn] = True
        return FaultAnswer.ASK

    def arrived(self, run: Run) -> list[Run]:
        """Pages are here; returns those to put in their places, each page once for all time.

        Raises: GuestMemoryError, if they are not the guest's.
        """
        return _runs_from(run.first_pfn, self._take(run))

    def are_holes(self, run: Run) -> list[Run]:
        """Pages turn out to be holes; returns those that somebody waits for.

        Raises: GuestMemoryError, if they are not the guest's.
        """
        chosen = self._take(run) & self._asked[run.first_pfn : run.first_pfn + run.pages]
        return _runs_from(run.first_pfn, chosen)

    def received(self) -> PageRuns:
        """What has arrived of what was to come; for the source, after a channel broke."""
        return runs_of(self._announced & ~self._missing)

    def asked(self) -> PageRuns:
        """What was asked for and is not here; to be asked for again, after a channel broke."""
        return runs_of(self._asked & self._missing)

    def _take(self, run: Run) -> Pages:
        """Which pages of a run are still missing; none of them is, after this."""
        _check(run, self.all_pages)
        part = slice(run.first_pfn, run.first_pfn + run.pages)
        chosen = self._missing[part].copy()
        self._missing[part] = False
        self.left_pages -= int(np.count_nonzero(chosen))
        return chosen


class ServedPages:
    """What the source has still to send."""

    def __init__(self, missing: Pages) -> None:
        self._missing = missing.copy()
        self._wanted: deque[int] = deque()
        self._is_wanted = np.zeros(missing.size, np.bool_)
        self._position = 0
        self._have_to_send(self._missing)

    @property
    def is_wanted(self) -> bool:
        """Somebody waits for a page that was not sent."""
        return any(self._left[pfn] for pfn in self._wanted)

    def left(self) -> PageRuns:
        """All that has still to be sent."""
        return runs_of(self._left)

    def want(self, pfn: int) -> None:
        """The destination waits for a page; one that was sent is on its way.

        Raises: GuestMemoryError, if it is not the guest's.
        """
        _check(Run(pfn, 1), self._left.size)
        if self._left[pfn] and not self._is_wanted[pfn]:
            self._is_wanted[pfn] = True
            self._wanted.append(pfn)

    def take(self, pages_max: int) -> PageRuns | None:
        """What to send next, at most so many pages; None: all has been sent.

        What is wanted goes by itself, so that nobody waits for its neighbours; those come next,
        because a guest mostly goes on where it is.
        """
        if pages_max < 1:
            raise UsageError(f"{pages_max} pages cannot be sent")
        while self._wanted:
            pfn = self._wanted.popleft()
            if self._left[pfn]:
                return self._send(np.array([pfn]))
        if self.left_pages:
            return self._send(self._next_pages(self._left, pages_max))
        return None

    def resume(self, received: PageRuns) -> None:
        """There is a new channel, and the destination has received this and nothing else.

        Raises: GuestMemoryError; PeerError, if it claims to have received what was not to come.
        """
        there = as_set(received, self._left.size)
        if (there & ~self._missing).any():
            raise PeerError("the destination claims to have received pages that were not to come")
        self._wanted.clear()
        self._is_wanted[:] = False
        self._have_to_send(self._missing & ~there)

    def _have_to_send(self, pages: Pages) -> None:
        self._left = pages.copy()
        self.left_pages = int(np.count_nonzero(self._left))  #: still to be sent

    def _next_pages(self, pages: Pages, pages_max: int) -> Int64s:
        """The next of a set that is not empty, going on where the last were sent."""
        start = self._position
        found = pages[start:]
        if not found.any():
            start, found = 0, pages
        first = int(found.argmax())
        # Only a piece is looked at: memory is large, and this is asked for each megabyte of it.
        piece = found[first : first + _LOOK_AHEAD * pages_max]
        return np.flatnonzero(piece)[:pages_max].astype(np.int64) + (start + first)

    def _send(self, pfns: Int64s) -> PageRuns:
        self._position = int(pfns[-1]) + 1
        self.left_pages -= pfns.size
        self._left[pfns] = False
        breaks = np.flatnonzero(np.diff(pfns, prepend=-2) != 1)
        return PageRuns(pfns[breaks], np.diff(breaks, append=pfns.size))


def pages_of_ranges(ranges: Iterable[tuple[int, int]]) -> PageRuns:
    """All pages that ranges of guest memory, each an address and bytes, lie in or reach into."""
    pfns: list[int] = []
    for gpa, size in ranges:
        first, last = gpa // BALLOON_PAGE_BYTES, (gpa + size - 1) // BALLOON_PAGE_BYTES
        pfns += range(first, last + 1)
    return merge_pfns(np.array(pfns, np.uint64))


def _check(run: Run, all_pages: int) -> None:
    """Raises: GuestMemoryError."""
    if run.first_pfn < 0 or run.pages < 0 or run.first_pfn + run.pages > all_pages:
        raise GuestMemoryError(pages_to_bytes(run.first_pfn), pages_to_bytes(run.pages))


def as_set(runs: PageRuns, all_pages: int) -> Pages:
    """Pages of some runs. Raises: GuestMemoryError, if there are not so many."""
    found = np.zeros(all_pages, np.bool_)
    for run in starmap(Run, runs.pairs()):
        _check(run, all_pages)
        found[run.first_pfn : run.first_pfn + run.pages] = True
    return found


def runs_of(pages: Pages) -> PageRuns:
    """A set of pages as runs."""
    borders = np.flatnonzero(np.diff(pages, prepend=False, append=False)).astype(np.int64)
    return PageRuns(borders[::2], borders[1::2] - borders[::2])


def _runs_from(first_pfn: int, pages: Pages) -> list[Run]:
    """Runs of a part of the memory that begins at `first_pfn`."""
    runs = runs_of(pages)
    return list(map(Run, (runs.first_pfns + first_pfn).tolist(), runs.pages.tolist()))
