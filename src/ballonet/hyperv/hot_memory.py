"""Memory beyond what a guest is started with, added while it runs, chunk by chunk.

What was added stays until the machine is reset: a guest goes on to use it when it has closed the
channel, and Windows does.  A chunk that the guest refuses, or takes only in part, ends it: the rest
is never offered again.
Units: 4 KiB pages.  Source: QEMU hw/hyperv/hv-balloon.c hv_balloon_hot_add_setup,
hv_balloon_hot_add_posting, hv_balloon_handle_hot_add_response.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ballonet.hyperv.layouts import PageRange
from ballonet.hyperv.page_ranges import PageRangeSet, merge_ranges
from ballonet.memory.runs import PageRuns

__all__ = ["HotMemory"]

#: One request is for 2 GiB at most, or for one unit of the guest's alignment if that is more.
_CHUNK_PAGES_MAX: Final = 524_288


class HotMemory:
    """One range of guest memory."""

    def __init__(self, first_pfn: int, pages: int) -> None:
        self._first, self._end = first_pfn, first_pfn + pages
        self._chunk: PageRange | None = None  # offered, and not answered
        self._added: PageRangeSet
        self._next: int  # what may still be offered begins there
        self.release()

    @property
    def all_pages(self) -> PageRuns:
        """The whole range."""
        return merge_ranges(PageRuns(np.array([self._first]), np.array([self._end - self._first])))

    @property
    def added(self) -> PageRuns:
        """What the guest has of it."""
        return self._added.runs

    @property
    def added_pages(self) -> int:
        """How much that is."""
        return self._added.pages

    @property
    def absent_pages(self) -> int:
        """What the guest does not have of it."""
        return self._end - self._first - self._added.pages

    def offer(self, wanted_pages: int, alignment_pages: int) -> PageRange | None:
        """The next chunk, of at most so many pages; None: there is no more, or no whole unit."""
        start = -(-self._next // alignment_pages) * alignment_pages
        most = max(alignment_pages, _CHUNK_PAGES_MAX)
        pages = min(wanted_pages, self._end - start, most) // alignment_pages * alignment_pages
        self._chunk = PageRange(start, pages) if pages > 0 else None
        return self._chunk

    def answer(self, taken_pages: int, *, is_success: bool) -> int:
        """The guest's answer to the offer; returns how many pages it has more."""
        if self._chunk is None:
            return 0
        chunk, self._chunk = self._chunk, None
        taken = min(taken_pages, chunk.pages) if is_success else 0
        self._next = chunk.first_pfn + chunk.pages if taken == chunk.pages else self._end
        if taken:
            self._added.add(PageRuns(np.array([chunk.first_pfn]), np.array([taken])))
        return taken

    def release(self) -> None:
        """The machine was reset: the guest has nothing of it any more."""
        self._added = PageRangeSet()
        self._next = self._first
