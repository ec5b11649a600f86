"""The guest's balloon: pages it gives when it is asked, and what it gets back.

A page is the host's from the moment the message that names it is in the ring, and not before: a
message that finds no room is repeated, and its pages are still the guest's.  What comes back is
free at once.  The host says which pages those are, and Linux believes it; here a page that is not
in the balloon is left alone and counted, since a host that is wrong would end the guest.
Linux takes a whole block of 2 MiB also for what is left of less; here single pages make up the
rest, so that the host gets just what it asked for.
Not here: what the host is told besides (status_worker), the handshake (driver).
Units: 4 KiB pages, which the guest's pages are, too.
Source: Linux drivers/hv/hv_balloon.c balloon_up, alloc_balloon_pages, balloon_down.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np

from ballonet.hyperv.floor import balloon_floor
from ballonet.hyperv.guest_channel import GuestChannel
from ballonet.hyperv.layouts import RANGES_MAX, RawRanges, join_ranges, split_ranges
from ballonet.hyperv.messages import BalloonResponse
from ballonet.hyperv.page_ranges import merge_ranges
from ballonet.kernel.buddy import PAGEBLOCK_ORDER, MigrateType
from ballonet.kernel.frames import Frames, Use
from ballonet.kernel.kernel import Effort, Kernel
from ballonet.kernel.tasks import Job
from ballonet.memory.runs import Int64s, PageRuns

__all__ = ["BalloonWorker"]

_BLOCK_PAGES: Final = 1 << PAGEBLOCK_ORDER


class BalloonWorker:
    """Of one driver."""

    def __init__(self, kernel: Kernel, channel: GuestChannel) -> None:
        self.pages = 0  #: in the balloon
        self.ignored_pages = 0  #: given back by the host, and not in the balloon
        self.clipped_requests = 0  #: for more than the floor allows
        self._kernel, self._channel = kernel, channel

    def inflate(self, asked_pages: int) -> Job[None]:
        """Give what can be given, in as many messages as it takes."""
        missing = self._above_floor(asked_pages)
        while True:
            firsts, block_pages = self._take_blocks(missing), _BLOCK_PAGES
            if not firsts.size:
                firsts, block_pages = (yield from self._take_single_pages(missing)), 1
            missing -= firsts.size * block_pages
            more = firsts.size > 0 and missing > 0
            ranges = join_ranges(PageRuns(firsts, np.full(firsts.size, block_pages)))
            make = partial(BalloonResponse, ranges=ranges, more=more)
            is_sent = yield from self._channel.send(make)
            self._settle((firsts[:, None] + np.arange(block_pages)).ravel(), is_sent=is_sent)
            if not (more and is_sent):
                return

    def deflate(self, ranges: RawRanges) -> None:
        """Free what comes back."""
        named = split_ranges(ranges)
        use = self._kernel.table.use
        parts = [
            np.flatnonzero(use[first : first + pages] == Use.BALLOON) + first
            for first, pages in merge_ranges(named).pairs()
        ]
        frames = np.concatenate(parts) if parts else np.empty(0, np.int64)
        self.ignored_pages += named.total_pages - frames.size
        self.pages -= frames.size
        self._kernel.hidden_frames -= frames.size
        self._kernel.counters.balloon_deflate += frames.size
        self._kernel.free(frames)

    def _above_floor(self, asked_pages: int) -> int:
        """So much of it that the floor stays available."""
        floor = balloon_floor(self._kernel.managed_frames)
        allowed = max(0, self._kernel.available_frames - floor)
        self.clipped_requests += asked_pages > allowed
        return min(asked_pages, allowed)

    def _take_blocks(self, most: int) -> Int64s:
        """First pages of as many blocks as there are, are wanted, and have room in a message."""
        heads: list[int] = []
        while len(heads) < min(RANGES_MAX, most // _BLOCK_PAGES):
            head = self._kernel.take_block(PAGEBLOCK_ORDER, Use.HELD, MigrateType.MOVABLE)
            if head is None:
                break
            heads.append(head)
        return np.array(heads, np.int64)

    def _take_single_pages(self, most: int) -> Job[Frames]:
        parts: list[Frames] = [np.empty(0, np.int64)]
        missing = min(most, RANGES_MAX)
        while missing:
            frames = yield from self._kernel.allocate(missing, Effort.ONCE, Use.HELD)
            if not frames.size:
                break
            parts.append(frames)
            missing -= frames.size
        return np.concatenate(parts)

    def _settle(self, frames: Frames, *, is_sent: bool) -> None:
        """Pages of one message are the host's, or they were never given."""
        if not is_sent:
            self._kernel.free(frames)
            return
        self._kernel.table.use[frames] = Use.BALLOON
        self.pages += frames.size
        self._kernel.hidden_frames += frames.size
        self._kernel.counters.balloon_inflate += frames.size
