"""A guest that gives its free memory for a while: for a snapshot, which then is small.

Only what is free is taken: its caches stay, and so do its programs.  So little is left that any of
them may need more: only a guest that takes memory back by itself then is squeezed (DEFLATE_ON_OOM).
Another one ran out of memory and panicked when a program was started.
Units: balloon pages of 4 KiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.units import bytes_to_pages, format_bytes, pages_to_bytes
from ballonet.virtio.features import Feature

__all__ = ["squeezed"]

#: Left beyond what the kernel keeps for itself, so that no program has to wait for memory.
_SPARE_BYTES: Final = 2 << 20
#: A guest may fall short by this part of what was free a moment ago.
_SHORT_BY: Final = 10
_STALLED_AFTER_S: Final = 10.0


def _no_progress(_: int) -> None:
    """For callers who only want the result."""


@contextmanager
def squeezed(
    machine: BalloonedGuest, progress: Callable[[int], None] = _no_progress
) -> Iterator[int]:
    """Have the guest's free memory in its balloon for the block; gives the pages in there.

    `progress` is given them on the way.  Afterwards the balloon is asked to be as before.
    Raises: GuestError, if the guest cannot take memory back, gives much less, or the host does not
    get it in time.
    """
    if Feature.DEFLATE_ON_OOM not in machine.device.status().negotiated:
        raise GuestError("a guest is squeezed only if its driver accepted DEFLATE_ON_OOM")
    before = machine.device.status()
    meminfo = machine.guest.meminfo()
    # Available is what is free beyond the kernel's own reserve, and caches.
    free_bytes = min(meminfo["MemFree"], meminfo["MemAvailable"]) - _SPARE_BYTES
    target_pages = before.actual_pages + max(0, bytes_to_pages(free_bytes))
    try:
        result = machine.resize(target_pages, stalled_after_s=_STALLED_AFTER_S, progress=progress)
        if not result.reached:  # its programs have taken some meanwhile: they need not wait for it
            least_pages = target_pages - (target_pages - before.actual_pages) // _SHORT_BY
            less_pages = max(least_pages, result.actual_pages - bytes_to_pages(_SPARE_BYTES))
            result = machine.resize(less_pages, stalled_after_s=_STALLED_AFTER_S, progress=progress)
        if not result.reached or result.waiting_bytes:
            given = format_bytes(pages_to_bytes(result.actual_pages - before.actual_pages))
            raise GuestError(f"the guest gives {given}, {format_bytes(free_bytes)} were asked for")
        yield result.actual_pages
    finally:
        # What it was asked for, not what it had: an earlier change may have been under way.
        machine.device.set_target(before.target_pages)
