"""Post-copy: the guest goes on at the destination while some of its memory is still at the source.

Two machines.  `MissingPages` at the destination knows what has to come: a page is asked for once,
put in its place once whatever arrives twice, and what never was to come is a hole.  `ServedPages`
at the source knows what has to go: what must be there before the guest goes on, then what is asked
for and what follows it, then the rest.
A channel that breaks costs nothing: both wait, the destination then says what it has received, and
the source goes on with everything else, also with what was on its way.
The page tables of the destination notice its guest alone: other processes with a mapping of the
same file, as the device's, find zeros in a page that is missing.  So what they use, rings and
the driver's buffers, is `urgent` and has to come before the guest goes on.
Not here: the faults themselves (missing), the stream.
Units: balloon pages; sets of pages are bool arrays with a place for each pfn.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import GuestMemoryError, PeerError, UsageError
from ballonet.memory.runs import PageRuns
from ballonet.units import pages_to_bytes

__all__ = ["FaultAnswer", "MissingPages", "Run", "ServedPages"]

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

    def __init__(self, missing: Pages, urgent: PageRuns | None = None) -> None:
        """What is urgent matters only as far as it is missing. Raises: GuestMemoryError."""
        self._announced = missing.copy()
        self._missing = missing.copy()
        self._asked = np.zeros(missing.size, np.bool_)
        self._urgent = missing & _as_set(urgent, missing.size)
        self.left_pages = int(np.count_nonzero(missing))  #: still to come
        self.urgent_pages = int(np.count_nonzero(self._urgent))  #: of them, before it runs

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
        return _runs_of(self._announced & ~self._missing)

    def asked(self) -> PageRuns:
        """What was asked for and is not here; to be asked for again, after a channel broke."""
        return _runs_of(self._asked & self._missing)

    def _take(self, run: Run) -> Pages:
        """Which pages of a run are still missing; none of them is, after this."""
        _check(run, self.all_pages)
        part = slice(run.first_pfn, run.first_pfn + run.pages)
        chosen = self._missing[part].copy()
        self._missing[part] = False
        self.left_pages -= int(np.count_nonzero(chosen))
        self.urgent_pages -= int(np.count_nonzero(chosen & self._urgent[part]))
        return chosen


class ServedPages:
    """What the source has still to send."""

    def __init__(self, missing: Pages, urgent: PageRuns | None = None) -> None:
        """What is urgent matters only as far as it is missing. Raises: GuestMemoryError."""
        self._missing = missing.copy()
        self._first = missing & _as_set(urgent, missing.size)
        self._wanted: deque[int] = deque()
        self._is_wanted = np.zeros(missing.size, np.bool_)
        self._position = 0
        self._have_to_send(self._missing)

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
        if self.urgent_pages:
            return self._send(self._next_pages(self._urgent, pages_max))
        while self._wanted:
            pfn = self._wanted.popleft()
            if self._left[pfn]:
                return self._send(np.array([pfn]))
        if self.left_pages:
            return self._send(self._next_pages(self._left, pages_max))
        return None

    def resume(self, received: PageRuns) -> None:
        """There is a new channel, and the destination has received this and nothing else.

        Raises: GuestMemoryError; PeerError, if it claims to have what was never sent.
        """
        there = _as_set(received, self._left.size)
        if (there & self._left).any():
            raise PeerError("the destination claims to have pages that were never sent")
        self._wanted.clear()
        self._is_wanted[:] = False
        self._have_to_send(self._missing & ~there)

    def _have_to_send(self, pages: Pages) -> None:
        self._left = pages.copy()
        self._urgent = pages & self._first
        self.left_pages = int(np.count_nonzero(self._left))  #: still to be sent
        self.urgent_pages = int(np.count_nonzero(self._urgent))  #: of them, before all others

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
        self.urgent_pages -= int(np.count_nonzero(self._urgent[pfns]))
        self._left[pfns] = self._urgent[pfns] = False
        breaks = np.flatnonzero(np.diff(pfns, prepend=-2) != 1)
        return PageRuns(pfns[breaks], np.diff(breaks, append=pfns.size))


def _check(run: Run, all_pages: int) -> None:
    """Raises: GuestMemoryError."""
    if run.first_pfn < 0 or run.pages < 0 or run.first_pfn + run.pages > all_pages:
        raise GuestMemoryError(pages_to_bytes(run.first_pfn), pages_to_bytes(run.pages))


def _as_set(runs: PageRuns | None, all_pages: int) -> Pages:
    """Raises: GuestMemoryError."""
    found = np.zeros(all_pages, np.bool_)
    if runs is not None:
        for run in map(Run, runs.first_pfns.tolist(), runs.pages.tolist()):
            _check(run, all_pages)
            found[run.first_pfn : run.first_pfn + run.pages] = True
    return found


def _runs_of(pages: Pages) -> PageRuns:
    borders = np.flatnonzero(np.diff(pages, prepend=False, append=False)).astype(np.int64)
    return PageRuns(borders[::2], borders[1::2] - borders[::2])


def _runs_from(first_pfn: int, pages: Pages) -> list[Run]:
    """Runs of a part of the memory that begins at `first_pfn`."""
    runs = _runs_of(pages)
    return list(map(Run, (runs.first_pfns + first_pfn).tolist(), runs.pages.tolist()))
