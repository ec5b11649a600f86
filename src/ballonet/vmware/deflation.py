"""One time that the balloon shrinks: pages are asked for, and freed when the host has agreed.

Single pages first, then blocks.  What the host does not unlock goes back to the balloon, and is
asked for again another time.
Units: frames of 4 KiB; `pages` of them, 1 or 512, make the page that a head names.
Source: Linux drivers/misc/vmw_balloon.c vmballoon_deflate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ballonet.kernel.frames import Frames
from ballonet.kernel.tasks import Job
from ballonet.vmware.balloon_frames import BalloonFrames
from ballonet.vmware.calls import HUGE_PAGES
from ballonet.vmware.host_calls import HostCalls
from ballonet.vmware.inflation import size_name

__all__ = ["Deflation"]


class Deflation:
    """Of one driver; `change` says how many frames are wanted now, less than none."""

    def __init__(
        self,
        calls: HostCalls,
        balloon: BalloonFrames,
        change: Callable[[], int],
        stats: Counter[str],
    ) -> None:
        self._calls, self._balloon = calls, balloon
        self._change, self._stats = change, stats

    def run(self) -> Job[int]:
        """Shrink to the target, or as far as the host lets; returns the frames freed."""
        return (yield from self._shrink(lambda _: -self._change()))

    def run_some(self, frames: int) -> Job[int]:
        """Shrink by so many frames, or as many as the host lets; returns the frames freed."""
        return (yield from self._shrink(lambda tried: frames - tried))

    def _shrink(self, left: Callable[[int], int]) -> Job[int]:
        """`left` says how much is to be asked for, after so much."""
        pages, freed, tried = 1, 0, 0
        while (frames := left(tried)) > 0:
            wanted = min(self._calls.batch_max, -(-frames // pages))
            heads = self._balloon.take(wanted, pages)
            tried += heads.size * pages
            unlocked = yield from self._ask(heads, pages)
            freed += unlocked * pages
            if unlocked < wanted:
                if pages == HUGE_PAGES or not self._calls.takes_blocks:
                    break
                pages = HUGE_PAGES
            yield None
        return freed

    def _ask(self, heads: Frames, pages: int) -> Job[int]:
        """Have pages unlocked and free them; returns how many."""
        verdicts = yield from self._calls.unlock(heads, pages)
        unlocked = heads[verdicts.accepted]
        self._balloon.free(unlocked, pages)
        self._balloon.put_back(heads[~verdicts.accepted], pages)
        self._stats[f"freed-{size_name(pages)}"] += unlocked.size
        return int(unlocked.size)
