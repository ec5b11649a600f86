"""Huge pages of this machine, set aside for as long as somebody needs them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ballonet.errors import SystemCallError

__all__ = ["reserve_huge_pages"]

_POOL: Final = Path("/proc/sys/vm/nr_hugepages")
_FREE: Final = "HugePages_Free:"


@contextmanager
def reserve_huge_pages(count: int) -> Iterator[None]:
    """At least so many free huge pages inside the block; waits for others who do the same.

    Raises: SystemCallError.
    """
    try:
        pool = _POOL.open("r+")
    except OSError as error:
        raise SystemCallError("setting aside", "huge pages", error.strerror or "") from error
    with pool:
        # Whoever sets the pool back would take what another has begun to use.
        fcntl.flock(pool, fcntl.LOCK_EX)
        before = int(pool.read())
        try:
            _POOL.write_text(str(before + max(0, count - _free_pages())))
            if _free_pages() < count:
                reason = "memory is too scattered"
                raise SystemCallError("setting aside", f"{count} huge pages", reason)
            yield
        finally:
            _POOL.write_text(str(before))


def _free_pages() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(_FREE):
            return int(line.split()[1])
    return 0
