"""Runs of pages cut to what one record holds, and pages of zeros found among their data.

Whole arrays at a time.  Units: balloon pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.memory.runs import Int64s, PageRuns
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["WORDS", "find_zero_pages", "pages_of", "pieces", "slices", "spans"]

#: 64-bit words of a page.
WORDS: Final = BALLOON_PAGE_BYTES // 8
#: A page that is not all zeros mostly says so at one of these words: a tenth of reading it whole.
_PROBES: Final = (0, WORDS // 2 + 5, WORDS - 1)


def pieces(runs: PageRuns, pages_max: int) -> Iterator[PageRuns]:
    """The same pages, in the same order, so many at a time; a run may be cut."""
    ends = np.cumsum(runs.pages)
    total = runs.total_pages
    for start in range(0, total, pages_max):
        stop = min(start + pages_max, total)
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop, side="left"))
        firsts, pages = (
            runs.first_pfns[first : last + 1].copy(),
            runs.pages[first : last + 1].copy(),
        )
        done = start - (int(ends[first]) - int(pages[0]))  # of the first run, by the piece before
        firsts[0] += done
        pages[0] -= done
        pages[-1] -= int(ends[last]) - stop
        yield PageRuns(firsts, pages)


def slices(runs: PageRuns, runs_max: int) -> Iterator[PageRuns]:
    """The same runs, so many at a time."""
    for start in range(0, runs.pages.size, runs_max):
        stop = start + runs_max
        yield PageRuns(runs.first_pfns[start:stop], runs.pages[start:stop])


def pages_of(runs: PageRuns) -> NDArray[np.uint64]:
    """Every page of some runs, in order."""
    before = np.cumsum(runs.pages) - runs.pages
    pfns = np.repeat(runs.first_pfns - before, runs.pages) + np.arange(runs.total_pages)
    return pfns.astype(np.uint64)


def spans(places: Int64s) -> Iterator[tuple[int, int]]:
    """Ascending numbers as ranges: the first of each, and the one behind its last."""
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    starts = np.concatenate((places[:1], places[breaks]))
    stops = np.concatenate((places[breaks - 1], places[-1:])) + 1
    return zip(starts.tolist(), stops.tolist(), strict=True)


def find_zero_pages(words: NDArray[np.uint64]) -> NDArray[np.bool_] | None:
    """Which pages, a row of words each, are all zeros; None: no page is, as mostly."""
    probed = words[:, _PROBES[0]] | words[:, _PROBES[1]] | words[:, _PROBES[2]]
    suspects = np.flatnonzero(probed == 0)
    if not suspects.size:
        return None
    rows = words if suspects.size == len(words) else words[suspects]
    is_zero = np.zeros(len(words), np.bool_)
    is_zero[suspects] = np.bitwise_or.reduce(rows, axis=1) == 0
    return is_zero if is_zero.any() else None
