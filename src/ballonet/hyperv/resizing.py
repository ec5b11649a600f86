"""One guest's size on its way to a target: one operation after another, each a talk of its own.

    IDLE ─▶ BALLOON_POSTING ─▶ BALLOON_REPLY_WAIT ─▶ again, or IDLE
         ─▶ UNBALLOON_POSTING ─▶ again for each range ─▶ UNBALLOON_REPLY_WAIT ─▶ hot add, or IDLE
         ─▶ HOT_ADD_POSTING ─▶ HOT_ADD_REPLY_WAIT ─▶ again for each chunk, or IDLE

How much is to be done is settled when it begins: a target that changes meanwhile is looked at when
it has ended.  A guest has no say in what it gets back; of what it is asked for it gives as much as
it likes, and an answer of nothing says that it is as small as it can be.
The order that keeps a guest's pages safe stands in `_unballoon`.
Not here: the handshake before, and the ring (host, outbox).
Units: 4 KiB pages.  Source: QEMU hw/hyperv/hv-balloon.c.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ballonet.balloon.facts import PagesRejected
from ballonet.balloon.given_memory import GivenMemory
from ballonet.hyperv.host_counters import HostCounters
from ballonet.hyperv.host_state import HostState
from ballonet.hyperv.hot_memory import HotMemory
from ballonet.hyperv.layouts import Capability, PageRange, RawRanges, join_ranges, split_ranges
from ballonet.hyperv.messages import (
    BalloonRequest,
    BalloonResponse,
    HotAddRequest,
    HotAddResponse,
    UnballoonRequest,
)
from ballonet.hyperv.page_ranges import cut_runs, each_page
from ballonet.hyperv.removed_pages import RemovedPages
from ballonet.memory.runs import PageRuns
from ballonet.virtio.queues import QueueRole

__all__ = ["BALLOON_PAGES_MAX", "UNBALLOON_PAGES_MAX", "Resizing"]

#: The most that Windows was seen to answer in one go.
BALLOON_PAGES_MAX: Final = 585_728
#: 2 GiB.
UNBALLOON_PAGES_MAX: Final = 524_288
_MIB_PAGES: Final = 256
#: Given to the ledger at once: 2 MiB of page numbers.
_GIVEN_PAGES: Final = 1 << 18
_TRANS_IDS: Final = 1 << 32


class Resizing:
    """Of one guest, from the moment its channel opens."""

    def __init__(
        self, given: GivenMemory, counters: HostCounters, boot: PageRuns, hot: HotMemory
    ) -> None:
        self.state = HostState.IDLE
        self.trans_id = 0  #: of the operation that is under way, or comes next
        self.removed: Final = RemovedPages()
        self._given, self._counters = given, counters
        self._boot, self._hot = boot, hot
        self._alignment_pages = _MIB_PAGES
        self._balloon_pages = self._unballoon_pages = self._hot_add_pages = 0  # still to be moved

    @property
    def actual_pages(self) -> int:
        """Memory that the guest does not have: removed, or never added."""
        return self.removed.both_pages + self._hot.absent_pages

    def begin(self, target_pages: int, capabilities: int) -> None:
        """Begin what leads to a target, if there is anything that the guest can do for it."""
        # A guest may have removed pages that are no memory, and so more than there is.
        removed = min(self.removed.pages, self._boot.total_pages + self._hot.added_pages)
        surplus = removed + self._hot.absent_pages - target_pages
        self._alignment_pages = Capability.alignment_mib(capabilities) * _MIB_PAGES
        if surplus < 0 and capabilities & Capability.BALLOON:
            self._balloon_pages = -surplus
            self.state = HostState.BALLOON_POSTING
        elif surplus > 0:
            self._unballoon_pages = min(surplus, removed)
            can_add = bool(capabilities & Capability.HOT_ADD)
            self._hot_add_pages = (surplus - self._unballoon_pages) * can_add
            self._post_or_end()

    def next_message(self) -> bytes | None:
        """The next message of the operation; None while the guest has the word, or it has ended."""
        match self.state:
            case HostState.BALLOON_POSTING:
                return self._balloon()
            case HostState.UNBALLOON_POSTING:
                return self._unballoon()
            case HostState.HOT_ADD_POSTING:
                return self._hot_add()
        return None

    def balloon_response(self, response: BalloonResponse) -> bool:
        """Take pages in; False if the guest was not asked."""
        if self.state is not HostState.BALLOON_REPLY_WAIT:
            return False
        if response.ranges.size:
            new_pages = self._take_in(response.ranges)
            self._counters.surplus_pages += max(0, new_pages - self._balloon_pages)
            self._balloon_pages = max(0, self._balloon_pages - new_pages)
            if response.more:
                return True
        else:  # it is as small as it can be
            self._balloon_pages = 0
        self._end_transaction()
        return True

    def unballoon_response(self) -> bool:
        """The guest has its pages; False if it was not told of any."""
        if self.state is not HostState.UNBALLOON_REPLY_WAIT:
            return False
        self._end_transaction()
        return True

    def hot_add_response(self, response: HotAddResponse) -> bool:
        """The guest's answer to a chunk; False if none was offered."""
        if self.state is not HostState.HOT_ADD_REPLY_WAIT:
            return False
        taken = self._hot.answer(response.pages, is_success=response.result != 0)
        self._hot_add_pages -= taken
        self._end_transaction()
        return True

    def described(self) -> dict[str, object]:
        """Its figures by name."""
        return {
            "trans-id": self.trans_id,
            "removed-both-pages": self.removed.both_pages,
            "removed-guest-pages": self.removed.guest_pages,
            "removed-ranges": self.removed.ranges,
            "hot-added-pages": self._hot.added_pages,
            "absent-pages": self._hot.absent_pages,
        }

    def _balloon(self) -> bytes:
        self._counters.balloon_requests += 1
        self.state = HostState.BALLOON_REPLY_WAIT
        pages = min(self._balloon_pages, BALLOON_PAGES_MAX)
        return BalloonRequest(self.trans_id, pages).build()

    def _unballoon(self) -> bytes:
        """Give one range back."""
        most = min(self._unballoon_pages, UNBALLOON_PAGES_MAX)
        pages = self.removed.take_lowest(most)
        if pages is None:
            raise AssertionError("more is to be given back than was removed")
        # Before the message exists: the guest uses these pages as soon as it has read it.
        end = pages.first_pfn + pages.pages
        self._given.take_back(np.arange(pages.first_pfn, end, dtype=np.uint64))
        self._counters.unballoon_requests += 1
        self._unballoon_pages -= pages.pages
        more = self._unballoon_pages > 0
        if not more:
            self.state = HostState.UNBALLOON_REPLY_WAIT
        return UnballoonRequest(self.trans_id, _one_range(pages), more).build()

    def _hot_add(self) -> bytes | None:
        chunk = self._hot.offer(self._hot_add_pages, self._alignment_pages)
        if chunk is not None and self.removed.has_outside(chunk):
            self._hot.answer(0, is_success=False)  # it would be given back as what it was not
            chunk = None
        if chunk is None:
            self._hot_add_pages = 0
            self.state = HostState.IDLE
            return None
        self._counters.hot_add_requests += 1
        self.state = HostState.HOT_ADD_REPLY_WAIT
        return HotAddRequest(self.trans_id, chunk, region=chunk).build()

    def _end_transaction(self) -> None:
        self.trans_id = (self.trans_id + 1) % _TRANS_IDS
        self._post_or_end()

    def _post_or_end(self) -> None:
        if self._balloon_pages:
            self.state = HostState.BALLOON_POSTING
        elif self._unballoon_pages:
            self.state = HostState.UNBALLOON_POSTING
        elif self._hot_add_pages:
            self.state = HostState.HOT_ADD_POSTING
        else:
            self.state = HostState.IDLE

    def _take_in(self, ranges: RawRanges) -> int:
        """Pages of one response; returns how many the guest has less."""
        taken = self.removed.take_in(split_ranges(ranges), self._boot, self._hot.added)
        self._counters.duplicate_pages += taken.duplicate_pages
        self._counters.outside_pages += taken.outside_pages
        self._counters.ignored_pages += taken.ignored_pages
        rejected = taken.outside_pages + taken.ignored_pages
        if rejected:
            self._given.counters.rejected_pages += rejected
            self._given.observers.tell(PagesRejected(QueueRole.INFLATE, rejected))
        for part in cut_runs(taken.given, _GIVEN_PAGES):
            self._given.give(each_page(part).astype(np.uint64))
        return taken.new_pages


def _one_range(pages: PageRange) -> RawRanges:
    return join_ranges(PageRuns(np.array([pages.first_pfn]), np.array([pages.pages])))
