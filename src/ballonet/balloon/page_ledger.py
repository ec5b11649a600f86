"""Whose each page is: what the host may drop, now or later, and what it must leave alone.

    the guest's     everything else
    given           named by an inflate message that is not answered yet
    held            in the balloon of a driver that asks before it uses a page again
                    (MUST_TELL_HOST): the host's until the deflate that names it is answered
    waiting         held, and to be dropped a little later, together with its neighbours
    partly given    a host page bigger than 4 KiB of which some parts are held: must stay

This is the one place that knows.  A page that is only *given* is dropped before its message is
answered, and nothing is kept of it; everything else stands here.

The rule for doubt: whatever might have gone back to the guest has gone back.  A deflate that
cannot be read, or can be read in more ways than one, takes back everything it might mean, and so
do other memory, a reset and rings that stop.  To drop a page late costs memory for a while; to drop
one that the guest has again costs its bytes.

Theory of operation.  Messages are kept as they came until there are many, or until anything else
is to happen, and are then sorted in one go.  What waits is dropped when the guest pauses, measured
by its own pace, in steps small enough not to keep its next message waiting.  It is dropped while
the guest is busy only when a limit on age or bytes is reached, because that was measured to cost
the guest more than it gains.
What has begun to be dropped is a *generation* of its own: pages given meanwhile wait in the next
one, so that a busy guest cannot keep any page waiting for longer than its limit and one round.
Not here: the clock, messages and queues (device), system calls (memory).
Source: VIRTIO 1.4 5.5.6: with MUST_TELL_HOST a page may be changed until its deflate is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.balloon.region_pages import RegionPages
from ballonet.memory.regions import RegionTable
from ballonet.memory.runs import Located, Ranges, locate, locate_runs, merge_messages
from ballonet.units import BALLOON_PAGE_BYTES, BALLOON_PAGE_SHIFT, pages_to_bytes

__all__ = ["PageLedger"]

#: The guest has paused if it gave and took nothing for so long, or for so many times the longest
#: that it lately took between two messages: an emulated guest needs 7 ms for each.
QUIET_NS: Final = 1_000_000
_QUIET_PACES: Final = 3
#: A silence that was longer was a pause, and says nothing about the guest's pace.
_PACE_NS_MAX: Final = 50_000_000
#: However busy the guest is, its pages are dropped when the oldest has waited so long,
AGE_NS_MAX: Final = 1_000_000_000
#: or when so much waits; until there is less again no more is taken in.
WAITING_BYTES_MAX: Final = 1 << 30
#: Sorted at once, this much costs little for each page; more would keep the guest waiting.
_UNSORTED_BYTES_MAX: Final = 1 << 14 << BALLOON_PAGE_SHIFT
_UNSORTED_MESSAGES_MAX: Final = 64

Pfns = NDArray[np.unsignedinteger]


class PageLedger:
    """The pages of one guest; time is handed in, in nanoseconds of one clock."""

    def __init__(self) -> None:
        self.steps = 0  #: taken since it was made
        self.is_full: bool  #: no further page may wait before some have been dropped
        self.wants_sorting: bool  #: the unsorted backlog has reached its limit
        self.table: RegionTable  #: what the pages lie in
        self._regions: dict[int, RegionPages]
        self._messages: list[Pfns]
        self._sorted_bytes: int
        self._unsorted_bytes: int
        self._next_since_ns: int | None  # when the first page came of those that wait
        self._dropping_since_ns: int | None  # the same of those that are dropped first
        self._last_activity_ns: int
        self._pace_ns: int
        self._is_expedited: bool
        self.take_back_all()

    @property
    def deadline_ns(self) -> int | None:
        """When something should be dropped; None: nothing waits."""
        oldest_ns = self._oldest_ns
        if oldest_ns is None:
            return None
        if self._is_expedited or self.is_full:
            return 0
        quiet_ns = max(QUIET_NS, _QUIET_PACES * self._pace_ns)
        return min(self._last_activity_ns + quiet_ns, oldest_ns + AGE_NS_MAX)

    def is_due(self, now_ns: int) -> bool:
        """Something should be dropped now, if the guest has nothing else to do."""
        deadline_ns = self.deadline_ns
        return deadline_ns is not None and now_ns >= deadline_ns

    def is_overdue(self, now_ns: int) -> bool:
        """Something must be dropped now, whatever the guest has to do."""
        oldest_ns = self._oldest_ns
        if oldest_ns is None:
            return False
        return self._is_expedited or self.is_full or now_ns >= oldest_ns + AGE_NS_MAX

    @property
    def waiting_bytes(self) -> int:
        """Bytes of host pages that wait; until `sort`, page numbers are taken for pages."""
        return self._sorted_bytes + self._unsorted_bytes

    def enqueue_message(self, pfns: Pfns, table: RegionTable, now_ns: int) -> None:
        """Hold the pages of an inflate message, and let them wait; of any order and number."""
        self._use(table)
        self._note_activity(now_ns)
        if self._next_since_ns is None:
            self._next_since_ns = now_ns
        self._messages.append(pfns)
        self._unsorted_bytes += pfns.size << BALLOON_PAGE_SHIFT
        self.wants_sorting = (
            len(self._messages) >= _UNSORTED_MESSAGES_MAX
            or self._unsorted_bytes >= _UNSORTED_BYTES_MAX
        )
        self.is_full = self.waiting_bytes >= WAITING_BYTES_MAX

    def sort(self) -> int:
        """Find out what the messages mean; returns how many page numbers named no memory.

        Until then they are not dropped.
        """
        if not self._messages:
            return 0
        messages = self._messages
        self._messages, self._unsorted_bytes, self.wants_sorting = [], 0, False
        pfns = np.concatenate(messages)
        located = locate_runs(merge_messages(messages), self.table)
        for ranges in self._whole_host_pages(pfns, located):
            self._region(ranges.region).let_wait(ranges)
        self._count()
        if self._sorted_bytes >= WAITING_BYTES_MAX:
            self._is_expedited = True
        return located.rejected_pages

    def hold(self, pfns: Pfns, table: RegionTable) -> tuple[list[Ranges], int]:
        """Hold the pages of an inflate message that does not wait.

        Returns the host pages that are to be dropped before it is answered, and how many page
        numbers named no memory.
        """
        self._use(table)
        located = locate(pfns, table)
        return self._whole_host_pages(pfns, located), located.rejected_pages

    def take_back(self, pfns: Pfns, now_ns: int) -> None:
        """The guest is about to have these pages again: before its deflate is answered.

        `sort` has been called.
        """
        self._note_activity(now_ns)
        for pages in self._regions.values():
            pages.take_back(pfns)
        self._count()

    def take_back_all(self) -> None:
        """The guest may have any page again."""
        self.table = RegionTable([])
        self._regions, self._messages = {}, []
        self._sorted_bytes = self._unsorted_bytes = self._last_activity_ns = 0
        self._next_since_ns = self._dropping_since_ns = None
        self._is_expedited = self.is_full = self.wants_sorting = False
        self._pace_ns = 0

    def expedite(self) -> None:
        """Let everything that waits now be dropped without waiting for a pause."""
        self._is_expedited = self._oldest_ns is not None

    def step(self) -> Ranges | None:
        """Ranges to drop now, which wait no more; None if nothing waits.

        `sort` has been called; a step is at most 2 MiB or one host page, and 256 ranges.
        """
        if self._dropping_since_ns is None:
            self._begin_dropping()
        for pages in self._regions.values():
            if pages.dropping_bytes:
                ranges = pages.take_lowest()
                self.steps += 1
                self._count()
                return ranges
        return None

    @property
    def _oldest_ns(self) -> int | None:
        """When the first page came of all that wait; those that are dropped first came first."""
        return self._next_since_ns if self._dropping_since_ns is None else self._dropping_since_ns

    def _note_activity(self, now_ns: int) -> None:
        """Learn the guest's pace: the longest silence of late, forgotten a little each time."""
        silence_ns, self._last_activity_ns = now_ns - self._last_activity_ns, now_ns
        if silence_ns <= _PACE_NS_MAX:
            self._pace_ns = max(silence_ns, self._pace_ns - (self._pace_ns >> 3))

    def _begin_dropping(self) -> None:
        for pages in self._regions.values():
            pages.begin_dropping()
        self._dropping_since_ns, self._next_since_ns = self._next_since_ns, None

    def _count(self) -> None:
        """Work out anew what waits, after a change."""
        self._sorted_bytes = sum(pages.waiting_bytes for pages in self._regions.values())
        self.is_full = self.waiting_bytes >= WAITING_BYTES_MAX
        dropping_bytes = sum(pages.dropping_bytes for pages in self._regions.values())
        if not dropping_bytes:
            self._dropping_since_ns = None
        if self._sorted_bytes == dropping_bytes and not self._messages:
            self._next_since_ns = None
        if self._oldest_ns is None:
            self._is_expedited = False

    def _use(self, table: RegionTable) -> None:
        if table is not self.table:
            self.take_back_all()
            self.table = table

    def _region(self, index: int) -> RegionPages:
        pages = self._regions.get(index)
        if pages is None:
            pages = self._regions[index] = RegionPages(index, self.table.regions[index])
        return pages

    def _whole_host_pages(self, pfns: Pfns, located: Located) -> list[Ranges]:
        """Host pages among those of a message that may be dropped whole."""
        found = [
            ranges for ranges in located.ranges if not self._region(ranges.region).combines_messages
        ]
        for index in self._regions_with_big_pages(pfns):
            ranges = self._region(index).hold(pfns)
            if ranges.offsets.size:
                found.append(ranges)
        return found

    def _regions_with_big_pages(self, pfns: Pfns) -> Iterator[int]:
        """Those in which one of some pages may lie: nothing is made for the others."""
        lowest, highest = (int(pfns.min()), int(pfns.max())) if pfns.size else (0, -1)
        for index, region in enumerate(self.table.regions):
            is_big = region.page_bytes > BALLOON_PAGE_BYTES
            end = region.gpa + region.size
            if is_big and pages_to_bytes(lowest) < end and region.gpa <= pages_to_bytes(highest):
                yield index
