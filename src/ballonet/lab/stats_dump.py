"""A statistics buffer as bytes, each entry with what it means beside it.

    entry    le16 tag, le64 value: 10 bytes, packed

Read here without the device's own parser (virtio/stats.py), which is compared with it.
Source: VIRTIO 1.4 5.5.6.3; Linux include/uapi/linux/virtio_balloon.h, struct virtio_balloon_stat.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ballonet.virtio.stats import STATS

__all__ = ["ENTRY_BYTES", "DumpedEntry", "as_dump", "read_entries"]

_TAG: Final = struct.Struct("<H")
_VALUE: Final = struct.Struct("<Q")
ENTRY_BYTES: Final = _TAG.size + _VALUE.size


@dataclass(frozen=True, slots=True)
class DumpedEntry:
    """One entry, and where it stands in the buffer."""

    offset: int
    tag: int
    value: int

    @property
    def name(self) -> str:
        """Linux's, in lower case; that of a tag nobody knows is its number."""
        return STATS[self.tag].name if self.tag < len(STATS) else str(self.tag)


def read_entries(raw: bytes) -> list[DumpedEntry]:
    """Every whole entry of a buffer, in order."""
    return [
        DumpedEntry(at, _TAG.unpack_from(raw, at)[0], _VALUE.unpack_from(raw, at + _TAG.size)[0])
        for at in range(0, len(raw) - ENTRY_BYTES + 1, ENTRY_BYTES)
    ]


def as_dump(raw: bytes, entries: Sequence[DumpedEntry]) -> str:
    """Offset, the bytes of tag and value, and both in words; a line for each entry."""
    lines = []
    for one in entries:
        tag = raw[one.offset : one.offset + _TAG.size].hex(" ")
        value = raw[one.offset + _TAG.size : one.offset + ENTRY_BYTES].hex(" ")
        lines.append(f"{one.offset:3}  {tag} | {value}  tag {one.tag:2}, {one.name}: {one.value:,}")
    return "\n".join(lines)
