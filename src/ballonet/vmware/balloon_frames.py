"""The frames in the driver's balloon: single ones and blocks of 2 MiB, the newest taken first.

A frame that is out of its list while the host is asked for it still counts as in the balloon.
Blocks cannot be moved by compaction, so their frames are not marked as its pages of the balloon.
Units: frames of 4 KiB; `pages` of them, 1 or 512, make the page that a head names.
Source: Linux drivers/misc/vmw_balloon.c vmballoon_enqueue_page_list, vmballoon_dequeue_page_list;
that its pages are not counted as the guest's memory is adjust_managed_page_count, in newer ones.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ballonet.kernel.frames import Frames, FrameTable, Use
from ballonet.kernel.kernel import Kernel
from ballonet.vmware.calls import HUGE_PAGES

__all__ = ["BalloonFrames", "frames_of"]


def frames_of(heads: Frames, pages: int) -> Frames:
    """Each frame of pages that have so many."""
    return (heads[:, None] + np.arange(pages)).ravel()


class BalloonFrames:
    """All of one driver, and the kernel's account of them."""

    def __init__(self, kernel: Kernel) -> None:
        self.size = 0  #: frames in the balloon
        self._kernel = kernel
        self._lists = {1: _FrameList(kernel.table), HUGE_PAGES: _FrameList(kernel.table)}

    def heads(self, pages: int) -> Frames:
        """All pages of a size, newest last."""
        return self._lists[pages].frames.copy()

    def add(self, heads: Frames, pages: int) -> None:
        """Pages that the host has locked."""
        self._enqueue(heads, pages)
        self._account(heads.size * pages)
        self._kernel.counters.balloon_inflate += heads.size * pages

    def take(self, count: int, pages: int) -> Frames:
        """Up to so many pages, to be asked for; `put_back` or `free` them."""
        heads = self._lists[pages].pop(count)
        self._kernel.table.use[frames_of(heads, pages)] = Use.HELD
        return heads

    def take_one(self, frame: int) -> bool:
        """Take a single frame; False if it is not in the list of those."""
        if not self._lists[1].remove(frame):
            return False
        self._kernel.table.use[frame] = Use.HELD
        return True

    def put_back(self, heads: Frames, pages: int) -> None:
        """Pages that were taken, and that the host keeps."""
        self._enqueue(heads, pages)

    def replace(self, old: int, new: int) -> None:
        """Another frame comes for one that was taken; that is free."""
        self._enqueue(np.array([new]), 1)
        self._kernel.counters.balloon_migrate += 1
        self._kernel.free(np.array([old]))

    def free(self, heads: Frames, pages: int) -> None:
        """Pages that were taken, and that the guest has again."""
        self._account(-heads.size * pages)
        self._kernel.counters.balloon_deflate += heads.size * pages
        self._kernel.free(frames_of(heads, pages))

    def free_all(self) -> None:
        """Every page that is in a list, whatever the host thinks."""
        for pages, one in self._lists.items():
            self.free(self.take(one.count, pages), pages)

    def _enqueue(self, heads: Frames, pages: int) -> None:
        self._lists[pages].push(heads)
        use = Use.BALLOON if pages == 1 else Use.HELD
        self._kernel.table.use[frames_of(heads, pages)] = use

    def _account(self, frames: int) -> None:
        self.size += frames
        self._kernel.hidden_frames += frames


class _FrameList:
    """Frames, newest last; the frame table knows each one's place."""

    def __init__(self, table: FrameTable) -> None:
        self._index: Final = table.index
        self._frames: Frames = np.empty(1024, np.int64)
        self.count = 0

    @property
    def frames(self) -> Frames:
        return self._frames[: self.count]

    def push(self, frames: Frames) -> None:
        end = self.count + frames.size
        if end > self._frames.size:
            grown = np.empty(max(end, 2 * self._frames.size), np.int64)
            grown[: self.count] = self.frames
            self._frames = grown
        self._frames[self.count : end] = frames
        self._index[frames] = np.arange(self.count, end)
        self.count = end

    def pop(self, count: int) -> Frames:
        """The newest ones, newest first."""
        start = max(0, self.count - count)
        taken = self.frames[start:][::-1].copy()
        self.count = start
        return taken

    def remove(self, frame: int) -> bool:
        """Take one out, whose place the newest takes; False if it is not here."""
        place = int(self._index[frame])
        if not (0 <= place < self.count and self._frames[place] == frame):
            return False
        self.count -= 1
        newest = self._frames[self.count]
        self._frames[place] = newest
        self._index[newest] = place
        return True
