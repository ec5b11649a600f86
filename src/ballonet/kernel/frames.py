"""What each frame of guest memory is used for, and who uses it.

One array for each fact, indexed by frame; arrays of zeros cost nothing until they are written, so a
guest of 64 GiB is small as long as little of it is used.
Units: frames, which are guest pages.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrameTable", "Frames", "Use"]

Frames = NDArray[np.int64]


class Use(IntEnum):
    """What a frame is."""

    NONE = 0  #: free, or no memory at all
    KERNEL = 1  #: never moves, never reclaimed
    ANON = 2  #: a process's own memory
    CACHE = 3  #: a page of a file
    BALLOON = 4  #: the host's
    HELD = 5  #: taken for a free page hint


class FrameTable:
    """The facts about all frames up to `end`."""

    def __init__(self, end: int) -> None:
        self.use: NDArray[np.uint8] = np.zeros(end, np.uint8)
        self.area: NDArray[np.int32] = np.zeros(end, np.int32)  #: number of the area it belongs to
        self.index: NDArray[np.int32] = np.zeros(end, np.int32)  #: place in that area
        self.touched: NDArray[np.uint32] = np.zeros(end, np.uint32)  #: by the clock of `tick`
        self.clock = 0

    def tick(self) -> int:
        """The next moment of the clock that orders touches."""
        self.clock += 1
        return self.clock

    def count(self, use: Use) -> int:
        """How many frames are used so."""
        return int(np.count_nonzero(self.use == use))

    def used_as(self, *uses: Use) -> Frames:
        """All frames of these uses, ascending."""
        if len(uses) == 1:
            return np.flatnonzero(self.use == uses[0])
        return np.flatnonzero(np.isin(self.use, uses))
