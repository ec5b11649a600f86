"""Huge pages of this machine, set aside for as long as somebody needs them."""

from __future__ import annotations

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
    """At least so many free huge pages inside the block. Raises: SystemCallError."""
    try:
        before = int(_POOL.read_text())
        _POOL.write_text(str(before + max(0, count - _free_pages())))
    except OSError as error:
        raise SystemCallError("setting aside", "huge pages", error.strerror or "") from error
    try:
        if _free_pages() < count:
            raise SystemCallError("setting aside", f"{count} huge pages", "memory is too scattered")
        yield
    finally:
        _POOL.write_text(str(before))


def _free_pages() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(_FREE):
            return int(line.split()[1])
    return 0
