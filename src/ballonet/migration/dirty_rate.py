"""How fast a guest writes, from one reading of its tracker.

Source: QEMU qapi/migration.json calc-dirty-rate.  Units: bytes, nanoseconds.
"""

from __future__ import annotations

from ballonet.balloon.clock import NS_PER_S
from ballonet.memory.runs import PageRuns
from ballonet.units import pages_to_bytes

__all__ = ["dirty_bytes_per_s"]


def dirty_bytes_per_s(written: PageRuns, since_ns: int, now_ns: int) -> int:
    """The rate, from what a tracker read before at `since_ns` reports at `now_ns`, which is later.

    A page counts once however often it is written between the two, so over a longer time the rate
    comes out lower: what a pass of that length would leave to the next.
    """
    return pages_to_bytes(written.total_pages) * NS_PER_S // max(1, now_ns - since_ns)
