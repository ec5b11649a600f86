"""What a Linux guest tells of its pages: which are in the balloon, which free blocks there are.

Pages in a balloon are marked as being offline, in /proc/kpageflags.
Source: Linux include/uapi/linux/kernel-page-flags.h (KPF_OFFLINE); Documentation/admin-guide/mm/
pagemap.rst; Documentation/filesystems/proc.rst (buddyinfo).
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["free_huge_blocks", "offline_pfns", "pages_in_balloon"]

_OFFLINE: Final = np.uint64(1 << 23)
_HUGE_ORDER: Final = 9  # 2 MiB, of pages of 4 KiB
_COLUMNS_BEFORE: Final = 4  # "Node", "0,", "zone", its name


def pages_in_balloon(check: Callable[[str], str]) -> NDArray[np.int64]:
    """Numbers of the pages that the guest's kernel has in its balloon, ascending.

    `check` runs a command in it.  Raises: GuestError.
    """
    packed = check("gzip -c < /proc/kpageflags | base64")
    return offline_pfns(gzip.decompress(base64.b64decode(packed)))


def offline_pfns(flags: bytes) -> NDArray[np.int64]:
    """Which pages are offline, of what /proc/kpageflags says: 8 bytes a page."""
    return np.flatnonzero(np.frombuffer(flags, "<u8") & _OFFLINE)


def free_huge_blocks(buddyinfo: str) -> int:
    """How many blocks of 2 MiB are free, of what /proc/buddyinfo says; bigger ones are several."""
    blocks = 0
    for line in buddyinfo.splitlines():
        counts = [int(one) for one in line.split()[_COLUMNS_BEFORE:]]
        for order in range(_HUGE_ORDER, len(counts)):
            blocks += counts[order] << (order - _HUGE_ORDER)
    return blocks
