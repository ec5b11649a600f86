"""The pages in the balloon, newest last.

Units: frames; a frame is one or more balloon pages.
"""

from __future__ import annotations

import numpy as np

from ballonet.kernel.frames import Frames, FrameTable

__all__ = ["BalloonPages"]


class BalloonPages:
    """A stack of frames; the frame table knows each one's place, so that it can be moved."""

    def __init__(self, table: FrameTable) -> None:
        self._table = table
        self._frames: Frames = np.empty(1024, np.int64)
        self.count = 0

    @property
    def frames(self) -> Frames:
        """All of them, newest last."""
        return self._frames[: self.count]

    def push(self, frames: Frames) -> None:
        """Add frames."""
        end = self.count + frames.size
        if end > self._frames.size:
            grown = np.empty(max(end, 2 * self._frames.size), np.int64)
            grown[: self.count] = self._frames[: self.count]
            self._frames = grown
        self._frames[self.count : end] = frames
        self._table.index[frames] = np.arange(self.count, end)
        self.count = end

    def pop(self, count: int) -> Frames:
        """Take the newest frames out, newest first."""
        start = max(0, self.count - count)
        taken = self._frames[start : self.count][::-1].copy()
        self.count = start
        return taken

    def replace(self, old: int, new: int) -> None:
        """Another frame takes a frame's place."""
        place = int(self._table.index[old])
        self._frames[place] = new
        self._table.index[new] = place
