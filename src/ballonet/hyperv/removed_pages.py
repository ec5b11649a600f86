"""Pages a guest has removed from its memory, by what the host can do with them.

    removed_guest   no memory that the guest has: nothing to drop, and yet given back in its turn
    removed_both    memory: the host may drop it until it is given back

A page is in one of them at most, and counts once however often it is named.
Not here: dropping (balloon), messages.
Units: 4 KiB pages.  Source: QEMU hw/hyperv/hv-balloon.c removed_guest, removed_both,
hv_balloon_handle_remove_ranges, hv_balloon_unballoon_get_source.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from ballonet.hyperv.layouts import PageRange
from ballonet.hyperv.page_ranges import (
    NO_PAGES,
    PageRangeSet,
    common_pages,
    join_runs,
    merge_ranges,
    without_pages,
)
from ballonet.memory.runs import PageRuns

__all__ = ["RemovedPages", "TakenIn"]

#: Ranges of no memory that are remembered of one guest: it could name 2^39 of them.
_GUEST_RANGES_MAX: Final = 1 << 16
#: Pages that the first page of a range can be.  A range may end beyond, but what it names there
#: could not be given back: the message would name other pages.
_NAMEABLE: Final = PageRuns(np.array([0]), np.array([1 << 40]))


class TakenIn(NamedTuple):
    """What became of the ranges of one message."""

    given: PageRuns  #: new in removed_both
    outside_pages: int  #: new in removed_guest
    duplicate_pages: int
    ignored_pages: int  #: outside, and not remembered: too many, or beyond what can be named

    @property
    def new_pages(self) -> int:
        """How many pages the guest has less."""
        return self.given.total_pages + self.outside_pages


class RemovedPages:
    """Of one guest."""

    def __init__(self) -> None:
        self._guest = PageRangeSet()
        self._boot = PageRangeSet()  # removed_both of the memory the guest was started with
        self._added = PageRangeSet()  # ... and of what was hot-added

    @property
    def guest_pages(self) -> int:
        """In removed_guest."""
        return self._guest.pages

    @property
    def both_pages(self) -> int:
        """In removed_both."""
        return self._boot.pages + self._added.pages

    @property
    def pages(self) -> int:
        """In either."""
        return self.guest_pages + self.both_pages

    @property
    def both(self) -> PageRuns:
        """removed_both itself."""
        return join_runs(self._boot.runs, self._added.runs)

    @property
    def ranges(self) -> int:
        """How many ranges are kept."""
        return len(self._guest) + len(self._boot) + len(self._added)

    def has_outside(self, pages: PageRange) -> bool:
        """Some of these pages were removed when they were no memory."""
        runs = PageRuns(np.array([pages.first_pfn]), np.array([pages.pages]))
        return common_pages(runs, self._guest.runs).pages.size > 0

    def take_in(self, named: PageRuns, boot: PageRuns, added: PageRuns) -> TakenIn:
        """Sort ranges as they stood in a message, in any order and overlapping.

        `boot` and `added` are all memory that the guest was started with, and got later.
        """
        merged = merge_ranges(named)
        runs = common_pages(merged, _NAMEABLE)
        ignored_pages = merged.total_pages - runs.total_pages
        of_boot, of_added = common_pages(runs, boot), common_pages(runs, added)
        outside = without_pages(without_pages(runs, boot), added)
        if len(self._guest) + outside.pages.size > _GUEST_RANGES_MAX:
            ignored_pages += outside.total_pages
            outside = NO_PAGES
        given = join_runs(self._boot.add(of_boot), self._added.add(of_added))
        outside_pages = self._guest.add(outside).total_pages
        new_pages = given.total_pages + outside_pages
        duplicate_pages = named.total_pages - new_pages - ignored_pages
        return TakenIn(given, outside_pages, duplicate_pages, ignored_pages)

    def take_lowest(self, pages: int) -> PageRange | None:
        """Take out one range of at most so many pages: boot memory first, the lowest first."""
        for source in (self._guest, self._boot, self._added):
            taken = source.take_lowest(pages)
            if taken is not None:
                return PageRange(*taken)
        return None
