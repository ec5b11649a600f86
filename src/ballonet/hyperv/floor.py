"""How much memory a guest keeps, whatever its host asks for.

    memory MiB      16    32   128   512   2048   8192   32768
    kept MiB        16    24    72   168    360    744    1512

A line in pieces: each quarter as steep as the one before.  What is in the balloon is not the
guest's memory, so the floor sinks while the balloon grows, as Linux's does.
Source: Linux drivers/hv/hv_balloon.c compute_balloon_floor.
"""

from __future__ import annotations

from typing import Final

from ballonet.units import bytes_to_pages

__all__ = ["balloon_floor"]

#: Up to so many MiB of memory: so many MiB, and a part of the memory, as a shift.
_PIECES: Final = ((128, 8, 1), (512, 40, 2), (2048, 104, 3), (8192, 232, 4))
_LAST: Final = (488, 5)


def balloon_floor(total_pages: int) -> int:
    """Pages of 4 KiB that must stay available, of a guest with so many."""
    for below_mib, kept_mib, shift in _PIECES:
        if total_pages < _pages(below_mib):
            return _pages(kept_mib) + (total_pages >> shift)
    kept_mib, shift = _LAST
    return _pages(kept_mib) + (total_pages >> shift)


def _pages(mib: int) -> int:
    return bytes_to_pages(mib << 20)
