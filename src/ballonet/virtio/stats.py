"""Statistics the driver sends: one table row per tag, and the parser of a buffer.

A buffer is a list of 10-byte entries, packed: le16 tag, le64 value.  Drivers send any subset in
any order; unknown tags are kept apart, never refused.
Source: VIRTIO 1.4 5.5.6.3; tags 10 to 15 Linux 6.12 include/uapi/linux/virtio_balloon.h; keys
from QEMU's guest-stats.  The specification says a buffer is a multiple of 6 bytes: an erratum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

import numpy as np

__all__ = ["STATS", "STATS_BYTES_MAX", "UNSET", "StatRow", "StatUnit", "StatsSample", "parse_stats"]

#: 409 entries; a driver sends 16 today.  The rest of a longer buffer is ignored.
STATS_BYTES_MAX: Final = 4096
#: What a value that was never sent reads as.
UNSET: Final = 2**64 - 1

_ENTRY: Final = np.dtype([("tag", "<u2"), ("val", "<u8")])
_ENTRY_BIG_ENDIAN: Final = _ENTRY.newbyteorder(">")


class StatUnit(Enum):
    """What a value counts."""

    BYTES = "bytes"
    COUNT = "count"


class StatRow(NamedTuple):
    """One statistic: the only place where its names stand."""

    tag: int
    name: str  #: Linux's VIRTIO_BALLOON_S_ name in lower case
    unit: StatUnit
    qemu_key: str
    since: str
    only_grows: bool = True  #: since the guest's boot; otherwise it is of one moment


_B, _C = StatUnit.BYTES, StatUnit.COUNT
#: Indexed by tag.
STATS: Final = (
    StatRow(0, "swap_in", _B, "stat-swap-in", "VIRTIO 1.0"),
    StatRow(1, "swap_out", _B, "stat-swap-out", "VIRTIO 1.0"),
    StatRow(2, "majflt", _C, "stat-major-faults", "VIRTIO 1.0"),
    StatRow(3, "minflt", _C, "stat-minor-faults", "VIRTIO 1.0"),
    StatRow(4, "memfree", _B, "stat-free-memory", "VIRTIO 1.0", only_grows=False),
    StatRow(5, "memtot", _B, "stat-total-memory", "VIRTIO 1.0", only_grows=False),
    StatRow(6, "avail", _B, "stat-available-memory", "VIRTIO 1.1", only_grows=False),
    StatRow(7, "caches", _B, "stat-disk-caches", "VIRTIO 1.1", only_grows=False),
    StatRow(8, "htlb_pgalloc", _C, "stat-htlb-pgalloc", "VIRTIO 1.1"),
    StatRow(9, "htlb_pgfail", _C, "stat-htlb-pgfail", "VIRTIO 1.1"),
    StatRow(10, "oom_kill", _C, "stat-oom-kills", "Linux 6.12"),
    StatRow(11, "alloc_stall", _C, "stat-alloc-stalls", "Linux 6.12"),
    StatRow(12, "async_scan", _B, "stat-async-scans", "Linux 6.12"),
    StatRow(13, "direct_scan", _B, "stat-direct-scans", "Linux 6.12"),
    StatRow(14, "async_reclaim", _B, "stat-async-reclaims", "Linux 6.12"),
    StatRow(15, "direct_reclaim", _B, "stat-direct-reclaims", "Linux 6.12"),
)


@dataclass(frozen=True, slots=True)
class StatsSample:
    """All of one answer; a tag sent twice keeps its last value."""

    values: dict[str, int] = field(default_factory=dict)  #: by StatRow.name; only what was sent
    unknown: dict[int, int] = field(default_factory=dict)  #: by tag

    def value(self, name: str) -> int:
        """One value, UNSET if the driver did not send it."""
        return self.values.get(name, UNSET)


def parse_stats(raw: bytes, *, big_endian: bool = False) -> StatsSample:
    """Read a statistics buffer; a trailing part of an entry is ignored, as QEMU ignores it.

    `big_endian` is for legacy drivers of big-endian guests, whose buffers are in their own order.
    """
    whole = min(len(raw), STATS_BYTES_MAX) // _ENTRY.itemsize
    entries = np.frombuffer(raw, _ENTRY_BIG_ENDIAN if big_endian else _ENTRY, count=whole)
    sample = StatsSample()
    for tag, val in entries.tolist():
        if tag < len(STATS):
            sample.values[STATS[tag].name] = val
        else:
            sample.unknown[tag] = val
    return sample
