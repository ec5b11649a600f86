"""Pages of a guest that hold a mark, seen from the host in the file that is the guest's memory.

It is read, not mapped: a look through a mapping would fill the holes that a balloon has made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["MARK", "count_marked_pages"]

#: A page of a file that repeats it begins with it.
MARK: Final = b"ballonet's mark\n"
_PART_BYTES: Final = 16 << 20


def count_marked_pages(memory_file: Path, mark: bytes = MARK) -> int:
    """How many pages of 4 KiB begin with the mark. Raises: OSError."""
    marked = 0
    wanted = np.frombuffer(mark, np.uint8)
    with memory_file.open("rb", buffering=0) as file:
        while part := file.read(_PART_BYTES):
            whole = len(part) // BALLOON_PAGE_BYTES * BALLOON_PAGE_BYTES
            pages = np.frombuffer(part, np.uint8, count=whole).reshape(-1, BALLOON_PAGE_BYTES)
            marked += int((pages[:, : wanted.size] == wanted).all(axis=1).sum())
    return marked
