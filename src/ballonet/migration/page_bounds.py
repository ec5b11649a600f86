"""Which balloon pages a guest has, and runs of them cut so that each lies in one region.

Units: balloon pages; guest regions of a migration are whole ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from ballonet.errors import UsageError
from ballonet.memory.runs import Int64s, PageRuns
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["PageBounds", "describe_regions"]


class PageBounds:
    """First page of each region, and the first one behind it; ascending."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        """Regions as address and size, in bytes. Raises: UsageError for parts of pages."""
        ordered = sorted(spans)
        if not ordered or any(
            value % BALLOON_PAGE_BYTES or not size for gpa, size in ordered for value in (gpa, size)
        ):
            raise UsageError("a migration needs regions of whole balloon pages")
        table = np.array(ordered, np.int64) // BALLOON_PAGE_BYTES
        self.firsts: Final[Int64s] = table[:, 0].copy()
        self.ends: Final[Int64s] = table.sum(axis=1)
        if (self.firsts[1:] < self.ends[:-1]).any():
            raise UsageError("regions of guest memory that overlap")

    @property
    def total_pages(self) -> int:
        """In all regions."""
        return int((self.ends - self.firsts).sum())

    @property
    def end_pfn(self) -> int:
        """Behind the last page."""
        return int(self.ends[-1])

    def find(self, runs: PageRuns) -> Int64s | None:
        """The region each run lies in; None, if one of them lies in none or not wholly in one."""
        found = np.searchsorted(self.firsts, runs.first_pfns, side="right") - 1
        # -1: before every region.
        inside = (found >= 0) & (runs.first_pfns + runs.pages <= self.ends[found])
        return found if bool(inside.all()) else None

    def split(self, runs: PageRuns) -> PageRuns:
        """The same pages, each run in one region; they may touch then.

        Raises: UsageError, if one is in no region.
        """
        ends = runs.first_pfns + runs.pages
        before = np.searchsorted(runs.first_pfns, self.firsts, side="left") - 1
        cut = (before >= 0) & (self.firsts < ends[before]) if ends.size else np.zeros(0, np.bool_)
        if cut.any():
            borders = self.firsts[cut]
            firsts = np.sort(np.concatenate((runs.first_pfns, borders)))
            stops = np.sort(np.concatenate((ends, borders)))
            runs = PageRuns(firsts, stops - firsts)
        if self.find(runs) is None:
            raise UsageError("pages outside of guest memory")
        return runs


def describe_regions(regions: Sequence[tuple[int, int, int]]) -> str:
    """A few regions, each address, size and host's page in bytes, for people."""
    shown = [f"{size} bytes at {gpa:#x} in pages of {page}" for gpa, size, page in regions[:4]]
    return ", ".join(shown) + (f" and {len(regions) - 4} more" if len(regions) > 4 else "")
