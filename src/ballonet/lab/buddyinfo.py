"""How many free blocks of each size a kernel has: /proc/buddyinfo.

    Node 0, zone   Normal      5      3 ...     117

A line a zone; a column an order, from single pages on.
Source: Linux mm/vmstat.c frag_show_print.
"""

from __future__ import annotations

__all__ = ["free_blocks"]


def free_blocks(text: str) -> list[int]:
    """Free blocks of each order, of all zones together.

    Raises: ValueError, if it is not what the kernel prints.
    """
    found: list[int] = []
    for line in text.splitlines():
        _, zone, columns = line.partition("zone")
        if not zone:
            raise ValueError(f"not a line of /proc/buddyinfo: {line!r}")
        counts = [int(count) for count in columns.split()[1:]]
        found += [0] * (len(counts) - len(found))
        found = [a + b for a, b in zip(found, counts, strict=True)]
    return found
