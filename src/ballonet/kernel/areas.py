"""Areas: what processes and files keep in memory, page by page.

An area knows for each of its pages where it is: in a frame, in the swap, or nowhere yet.  With
marks kept, it also knows what each page must hold, so that a lost page is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.kernel.frames import Frames

__all__ = ["ABSENT", "IN_SWAP", "Area", "Process", "Swap"]

ABSENT: Final = -1  #: never touched, or dropped because its file has it
IN_SWAP: Final = -2
_MARK_STEP: Final = np.uint64(0x9E37_79B9_7F4A_7C15)  # spreads marks over all bits of a word


class Area:
    """Memory of a process, or the cached pages of a file."""

    def __init__(self, number: int, name: str, pages: int, *, is_file: bool, marks: bool) -> None:
        self.number: Final = number
        self.name: Final = name
        self.is_file: Final = is_file
        self.frames: Frames = np.full(pages, ABSENT, np.int64)  #: frame, ABSENT or IN_SWAP
        self.dirty: NDArray[np.bool_] = np.zeros(pages if is_file else 0, np.bool_)
        #: Which write each page must hold, 0 if it was never written; None without marks.
        self.marks: NDArray[np.uint32] | None = np.zeros(pages, np.uint32) if marks else None

    @property
    def present(self) -> Frames:
        """The frames it has."""
        return self.frames[self.frames >= 0]

    @property
    def swapped_pages(self) -> int:
        """Pages in the swap."""
        return int(np.count_nonzero(self.frames == IN_SWAP))

    def words(self, indexes: Frames) -> NDArray[np.uint64] | None:
        """What both ends of these pages must hold; None without marks."""
        if self.marks is None:
            return None
        marks = self.marks[indexes].astype(np.uint64)
        words = (indexes.astype(np.uint64) << np.uint64(32) | marks) * _MARK_STEP
        words[marks == 0] = 0
        return words


@dataclass(eq=False, slots=True)
class Process:
    """What the OOM killer may choose."""

    pid: int
    name: str
    areas: list[Area] = field(default_factory=list)
    is_alive: bool = True

    @property
    def points(self) -> int:
        """How bad it is: pages in memory and in the swap."""
        return sum(area.present.size + area.swapped_pages for area in self.areas)


@dataclass(slots=True)
class Swap:
    """Room for pages of processes, in frames' worth."""

    total: int
    used: int = 0

    @property
    def free(self) -> int:
        """What is left."""
        return self.total - self.used
