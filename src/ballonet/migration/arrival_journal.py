"""What has arrived of what was missing, and how far a guest has come, where processes share it.

A process that receives may be killed at any moment; the next one, made of the same parent, reads
here what it must know for certain.  Units: balloon pages.
"""

from __future__ import annotations

import mmap
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.migration.missing import still_missing
from ballonet.migration.postcopy import Run

__all__ = ["ArrivalJournal", "ArrivalStage"]

Pages = NDArray[np.bool_]


class ArrivalStage(IntEnum):
    """How far a guest has come that goes on before its memory is there."""

    LOADING = 0  #: it is the source's
    LOADED = 1  #: the source may give it up at any moment
    GONE_ON = 2  #: it runs here


class ArrivalJournal:
    """Made before the first process that receives."""

    def __init__(self, announced: Pages) -> None:
        self.announced: Final = announced
        shared = np.frombuffer(mmap.mmap(-1, announced.size + 1), np.uint8)
        self._stage, self._arrived = shared[:1], shared[1:].view(np.bool_)

    @property
    def stage(self) -> ArrivalStage:
        """How far the guest has come."""
        return ArrivalStage(int(self._stage[0]))

    def reach(self, stage: ArrivalStage) -> None:
        """It has come so far."""
        self._stage[0] = stage

    def note(self, run: Run) -> None:
        """These have arrived."""
        self._arrived[run.first_pfn : run.first_pfn + run.pages] = True

    def missing(self, memory_fd: int) -> Pages:
        """What has not arrived, also if somebody was killed before he could note it.

        Raises: SystemCallError.
        """
        return still_missing(memory_fd, self.announced & ~self._arrived)
