"""Messages of Hyper-V's Dynamic Memory, written and read by the checks themselves.

So that a check does not take over a mistake of either end it shares no code with them: here any
message can be made, also one that nobody may send.
Units: 4 KiB pages.  Source: Linux drivers/hv/hv_balloon.c, QEMU include/hw/hyperv/dynmem-proto.h.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from ballonet.conform.checks import Failed

__all__ = [
    "BALLOON_REQUEST",
    "BALLOON_RESPONSE",
    "CAPABILITIES_REPORT",
    "CAPABILITIES_RESPONSE",
    "HEADER_BYTES",
    "HOT_ADD_REQUEST",
    "HOT_ADD_RESPONSE",
    "INFO",
    "MESSAGE_BYTES_MAX",
    "RANGES_MAX",
    "STATUS_REPORT",
    "UNBALLOON_REQUEST",
    "UNBALLOON_RESPONSE",
    "VERSIONS",
    "VERSION_REQUEST",
    "VERSION_RESPONSE",
    "Packet",
    "Range",
    "balloon_response",
    "capabilities_report",
    "hot_add_response",
    "message",
    "pages_of",
    "ranges_of",
    "status_report",
    "unballoon_request",
    "version_request",
    "word_of",
]

VERSION_REQUEST: Final = 1
VERSION_RESPONSE: Final = 2
CAPABILITIES_REPORT: Final = 3
CAPABILITIES_RESPONSE: Final = 4
STATUS_REPORT: Final = 5
BALLOON_REQUEST: Final = 6
BALLOON_RESPONSE: Final = 7
UNBALLOON_REQUEST: Final = 8
UNBALLOON_RESPONSE: Final = 9
HOT_ADD_REQUEST: Final = 10
HOT_ADD_RESPONSE: Final = 11
INFO: Final = 12

HEADER_BYTES: Final = 8
MESSAGE_BYTES_MAX: Final = 4096
#: What has room behind a header and two words.
RANGES_MAX: Final = 510
#: 2.0, 1.0 and 0.3: major number in the upper 16 bits.
VERSIONS: Final = (0x20000, 0x10000, 3)

_HEADER: Final = Struct("<HHI")
_FIRST_BITS: Final = 40

#: First page and number of pages.
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Packet:
    """One message that came, taken apart as far as its header."""

    at_ns: int
    raw: bytes

    @property
    def kind(self) -> int:
        """Its type."""
        return int(_HEADER.unpack_from(self.raw)[0])

    @property
    def trans_id(self) -> int:
        """Its number."""
        return int(_HEADER.unpack_from(self.raw)[2])

    def word(self, offset: int) -> int:
        """32 bits at a place, counted from the beginning of the header."""
        return int.from_bytes(self.raw[offset : offset + 4], "little")

    def long(self, offset: int) -> int:
        """64 bits."""
        return int.from_bytes(self.raw[offset : offset + 8], "little")

    def check_size(self, size: int) -> None:
        """Raises: Failed, unless that is what it says and has."""
        says = int(_HEADER.unpack_from(self.raw)[1])
        if not says == size == len(self.raw):
            raise Failed(f"type {self.kind}: {len(self.raw)} bytes that say {says}, not {size}")

    @property
    def has_more(self) -> bool:
        """Of an answer with ranges, or an unballoon request: it is not the last."""
        return bool(self.word(8 if self.kind == UNBALLOON_REQUEST else 12) & 1)

    @property
    def ranges(self) -> list[Range]:
        """Its ranges. Raises: Failed, if their number is not that of its bytes."""
        count = self.word(12) if self.kind == UNBALLOON_REQUEST else self.word(12) >> 1
        self.check_size(16 + 8 * count)
        return ranges_of(self.raw[16:])


def message(kind: int, body: bytes, trans_id: int = 77, size: int | None = None) -> bytes:
    """Any message; `size`: what it says, if that is not true."""
    says = HEADER_BYTES + len(body) if size is None else size
    return _HEADER.pack(kind, says, trans_id) + body


def word_of(first: int, pages: int) -> bytes:
    """A range: 40 bits of its first page, 24 of its number of pages."""
    return (first | pages << _FIRST_BITS).to_bytes(8, "little")


def ranges_of(raw: bytes) -> list[Range]:
    """What words say."""
    words = [int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw), 8)]
    return [(word & (1 << _FIRST_BITS) - 1, word >> _FIRST_BITS) for word in words]


def pages_of(ranges: Iterable[Range]) -> list[int]:
    """Each page of ranges, in their order."""
    return [first + i for first, pages in ranges for i in range(pages)]


def version_request(version: int, trans_id: int = 1, *, is_last: bool = False) -> bytes:
    """The guest's first."""
    body = version.to_bytes(4, "little") + int(is_last).to_bytes(4, "little")
    return message(VERSION_REQUEST, body, trans_id)


def capabilities_report(bits: int, trans_id: int = 2) -> bytes:
    """The guest's second."""
    body = bits.to_bytes(8, "little") + bytes(8) + b"\xff" * 8
    return message(CAPABILITIES_REPORT, body, trans_id)


def status_report(available: int, committed: int) -> bytes:
    """In pages."""
    figures = (available, committed, 0, 0)
    return message(STATUS_REPORT, b"".join(n.to_bytes(8, "little") for n in figures) + bytes(8))


def balloon_response(
    ranges: Sequence[Range], *, more: bool = False, count: int | None = None
) -> bytes:
    """The guest's answer with pages; `count`: how many ranges it says it has."""
    says = len(ranges) if count is None else count
    head = bytes(4) + (says << 1 & 0xFFFF_FFFF | more).to_bytes(4, "little")
    return message(BALLOON_RESPONSE, head + b"".join(word_of(*one) for one in ranges))


def unballoon_request(
    ranges: Sequence[Range], *, more: bool = False, count: int | None = None
) -> bytes:
    """The host's: these pages are the guest's again."""
    says = len(ranges) if count is None else count
    head = int(more).to_bytes(4, "little") + says.to_bytes(4, "little")
    return message(UNBALLOON_REQUEST, head + b"".join(word_of(*one) for one in ranges))


def hot_add_response(pages: int, result: int) -> bytes:
    """The guest's answer to memory."""
    return message(HOT_ADD_RESPONSE, pages.to_bytes(4, "little") + result.to_bytes(4, "little"))
