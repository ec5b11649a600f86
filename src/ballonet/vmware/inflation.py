"""One time that the balloon grows: pages are found, given, and freed again if refused.

Blocks of 2 MiB come first, as long as there are free ones and the host takes them.  What it refused
of them is split, and offered in single pages before others are.  16 refused pages are enough for
once.  Refused pages are kept until the end, so that no page is offered twice.
A balloon never takes the guest's last memory, whatever the host asks for: what could be had without
ending a process, from free pages, caches and swap, does not go below a floor.  Linux has none.
Units: frames of 4 KiB; `pages` of them, 1 or 512, make the page that a head names.
Source: Linux drivers/misc/vmw_balloon.c vmballoon_inflate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import numpy as np

from ballonet.kernel.buddy import MigrateType
from ballonet.kernel.frames import Frames, Use
from ballonet.kernel.kernel import Effort, Kernel
from ballonet.kernel.tasks import Job
from ballonet.vmware.balloon_frames import BalloonFrames, frames_of
from ballonet.vmware.calls import HUGE_PAGES
from ballonet.vmware.host_calls import HostCalls

__all__ = ["REFUSED_MAX", "Inflation", "size_name"]

REFUSED_MAX: Final = 16  #: pages, before a page size is given up for now
#: The guest keeps the use of this part of the memory it has at boot.
_FLOOR_PART: Final = 16
_BLOCK_ORDER: Final = HUGE_PAGES.bit_length() - 1
_NONE: Final[Frames] = np.empty(0, np.int64)


def size_name(pages: int) -> str:
    """The word of a page size."""
    return "4k" if pages == 1 else "2m"


class Inflation:
    """Of one driver; `change` says how many frames are wanted now."""

    def __init__(
        self,
        kernel: Kernel,
        calls: HostCalls,
        balloon: BalloonFrames,
        change: Callable[[], int],
        stats: Counter[str],
    ) -> None:
        self._kernel, self._calls, self._balloon = kernel, calls, balloon
        self._change, self._stats = change, stats
        self._floor_frames = (kernel.managed_frames + kernel.hidden_frames) // _FLOOR_PART
        self._refused = _NONE  # heads, of the page size that is tried
        self._split = _NONE  # frames of blocks that were refused

    def run(self) -> Job[None]:
        """Grow to the target, or as far as it goes."""
        pages = HUGE_PAGES if self._calls.takes_blocks else 1
        while (frames := self._change()) > 0:
            wanted = min(self._calls.batch_max, -(-frames // pages))
            heads = yield from self._allocate(wanted, pages)
            is_answered = yield from self._give(heads, pages)
            if not is_answered:
                break
            if heads.size < wanted or self._refused.size >= REFUSED_MAX:
                if pages == 1:
                    break
                self._split, self._refused = frames_of(self._refused, pages), _NONE
                pages = 1
            yield None
        self._free_refused(pages)

    def _give(self, heads: Frames, pages: int) -> Job[bool]:
        """Offer pages to the host; False if it refused the call."""
        verdicts = yield from self._calls.lock(heads, pages)
        refused = heads[~verdicts.accepted]
        self._balloon.add(heads[verdicts.accepted], pages)
        self._refused = np.concatenate((self._refused, refused))
        self._stats[f"refused-{size_name(pages)}"] += refused.size
        return verdicts.is_answered

    def _allocate(self, wanted: int, pages: int) -> Job[Frames]:
        """Up to so many pages; fewer if memory is short."""
        heads, self._split = self._split[:wanted], self._split[wanted:]
        missing = min(wanted - heads.size, max(0, self._spare_frames()) // pages)
        if pages == 1:
            found = yield from self._allocate_frames(missing)
        else:
            found = self._allocate_blocks(missing)
        heads = np.concatenate((heads, found))
        self._stats[f"allocated-{size_name(pages)}"] += found.size
        self._stats[f"not-allocated-{size_name(pages)}"] += wanted - heads.size
        return heads

    def _allocate_frames(self, count: int) -> Job[Frames]:
        parts = [_NONE]
        while count > 0:
            frames = yield from self._kernel.allocate(count, Effort.ONCE, Use.HELD)
            if not frames.size:
                break
            parts.append(frames)
            count -= frames.size
        return np.concatenate(parts)

    def _allocate_blocks(self, count: int) -> Frames:
        """Free ones only: nothing is reclaimed for them."""
        heads: list[int] = []
        while len(heads) < count:
            head = self._kernel.take_block(_BLOCK_ORDER, Use.HELD, MigrateType.UNMOVABLE)
            if head is None:
                break
            heads.append(head)
        return np.array(heads, np.int64)

    def _spare_frames(self) -> int:
        """What may still be taken."""
        kernel = self._kernel
        in_swap = min(kernel.swap.free, kernel.table.count(Use.ANON))
        return kernel.available_frames + in_swap - self._floor_frames

    def _free_refused(self, pages: int) -> None:
        self._stats[f"freed-refused-{size_name(pages)}"] += self._refused.size
        self._kernel.free(frames_of(self._refused, pages))
        self._kernel.free(self._split)
        self._refused = self._split = _NONE
