"""How the messages of Hyper-V's Dynamic Memory are laid out: types, versions, bits, ranges.

    0  2  4        8
    ┌──┬──┬────────┬ ─ ─
    │type│size│trans_id│ body          little-endian; `size` counts the header too
    └──┴──┴────────┴ ─ ─
    a range: bits 0-39 first page, bits 40-63 number of pages

Not here: what a message says (messages.py), packets of the bus that carries them.
Units: 4 KiB pages, whatever the guest's page is.
Source: Linux drivers/hv/hv_balloon.c, QEMU include/hw/hyperv/dynmem-proto.h.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballonet.memory.runs import PageRuns

__all__ = [
    "CAPABILITIES",
    "HEADER",
    "HEADER_BYTES",
    "HOT_REMOVE",
    "HOT_REMOVED",
    "INFO",
    "LONG",
    "MESSAGE_BYTES_MAX",
    "RANGES_AT",
    "RANGES_MAX",
    "RANGE_BYTES",
    "RANGE_PAGES_MAX",
    "STATUS",
    "TWO_WORDS",
    "Capability",
    "MessageType",
    "PageRange",
    "RawRanges",
    "Version",
    "format_version",
    "join_ranges",
    "split_ranges",
]

RawRanges = NDArray[np.uint64]

HEADER_BYTES: Final = 8
#: Both ends have one page for a message.
MESSAGE_BYTES_MAX: Final = 4096
#: What a range can say: its number of pages has 24 bits.
RANGE_PAGES_MAX: Final = (1 << 24) - 1
_FIRST_BITS: Final = 40
_FIRST_MASK: Final = np.uint64((1 << _FIRST_BITS) - 1)

#: Header and bodies.
HEADER: Final = Struct("<HHI")
TWO_WORDS: Final = Struct("<II")
LONG: Final = Struct("<Q")
CAPABILITIES: Final = Struct("<QQQ")
STATUS: Final = Struct("<QQQQII")
INFO: Final = Struct("<IIIIQ")
HOT_REMOVE: Final = Struct("<IIII")
HOT_REMOVED: Final = Struct("<IIQ")
#: Where the ranges of a balloon response and of an unballoon request begin.
RANGES_AT: Final = HEADER_BYTES + TWO_WORDS.size
RANGE_BYTES: Final = 8
#: Ranges that have room in one message.
RANGES_MAX: Final = (MESSAGE_BYTES_MAX - RANGES_AT) // RANGE_BYTES


class MessageType(IntEnum):
    """What a message is; G: sent by the guest, H: by the host."""

    ERROR = 0  #: read by neither end
    VERSION_REQUEST = 1  #: G
    VERSION_RESPONSE = 2  #: H
    CAPABILITIES_REPORT = 3  #: G
    CAPABILITIES_RESPONSE = 4  #: H
    STATUS_REPORT = 5  #: G
    BALLOON_REQUEST = 6  #: H
    BALLOON_RESPONSE = 7  #: G
    UNBALLOON_REQUEST = 8  #: H
    UNBALLOON_RESPONSE = 9  #: G
    HOT_ADD_REQUEST = 10  #: H
    HOT_ADD_RESPONSE = 11  #: G
    INFO = 12  #: H, since version 1.0
    HOT_REMOVE_REQUEST = 13  #: H, since version 2.0
    HOT_REMOVE_RESPONSE = 14  #: G, since version 2.0


class Version(IntEnum):
    """Versions of the protocol: major number in the upper 16 bits."""

    V0_3 = 3  #: Windows 7
    V1_0 = 1 << 16  #: Windows 8
    V2_0 = 2 << 16  #: Windows 10


class Capability(IntFlag):
    """What a guest can do, as bits of its report."""

    BALLOON = 1
    HOT_ADD = 1 << 1
    HOT_REMOVE = 1 << 6

    @staticmethod
    def alignment_mib(capabilities: int) -> int:
        """What hot-added memory must be aligned to, in MiB: bits 2 to 5 are its logarithm."""
        return 1 << (capabilities >> 2 & 0xF)

    @staticmethod
    def of_alignment(alignment_mib: int) -> int:
        """The bits for an alignment, a power of two of MiB."""
        return (alignment_mib.bit_length() - 1) << 2


class PageRange(NamedTuple):
    """One range of pages."""

    first_pfn: int
    pages: int

    @classmethod
    def of_word(cls, word: int) -> PageRange:
        """What a range of a message says."""
        return cls(word & (1 << _FIRST_BITS) - 1, word >> _FIRST_BITS)

    @property
    def word(self) -> int:
        """As it stands in a message; at most RANGE_PAGES_MAX pages."""
        return self.first_pfn | self.pages << _FIRST_BITS


def format_version(version: int) -> str:
    """A version as people write it."""
    return f"{version >> 16}.{version & 0xFFFF}"


def split_ranges(ranges: RawRanges) -> PageRuns:
    """First pages and numbers of pages, in the order of the message; nothing is merged.

    Ranges of no pages are kept, too: `merge_ranges` makes true runs of them.
    """
    return PageRuns(
        (ranges & _FIRST_MASK).astype(np.int64),
        (ranges >> np.uint64(_FIRST_BITS)).astype(np.int64),
    )


def join_ranges(runs: PageRuns) -> RawRanges:
    """Ranges as they stand in a message; none has more than RANGE_PAGES_MAX pages."""
    firsts, pages = runs.first_pfns.astype(np.uint64), runs.pages.astype(np.uint64)
    joined: RawRanges = firsts | pages << np.uint64(_FIRST_BITS)
    return joined
