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
from ballonet.kernel.tasks import Task

__all__ = ["ABSENT", "Area", "Process", "Swap"]

ABSENT: Final = -1  #: never touched, or dropped because its file has it
IN_SWAP: Final = -2


class Area:
    """Memory of a process, or the cached pages of a file."""

    def __init__(self, number: int, name: str, pages: int, *, is_file: bool, marks: bool) -> None:
        self.number: Final = number
        self.name: Final = name
        self.is_file: Final = is_file
        self.frames: Frames = np.full(pages, ABSENT, np.int64)  #: frame, ABSENT or IN_SWAP
        self.dirty: NDArray[np.bool_] = np.zeros(pages if is_file else 0, np.bool_)
        self.words: NDArray[np.uint64] | None = np.zeros(pages, np.uint64) if marks else None

    @property
    def present(self) -> Frames:
        """The frames it has."""
        return self.frames[self.frames >= 0]

    @property
    def swapped_pages(self) -> int:
        """Pages in the swap."""
        return int(np.count_nonzero(self.frames == IN_SWAP))


@dataclass(eq=False, slots=True)
class Process:
    """What the OOM killer may choose."""

    pid: int
    name: str
    areas: list[Area] = field(default_factory=list)
    task: Task | None = None
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
