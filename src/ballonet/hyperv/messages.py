"""The messages of Hyper-V's Dynamic Memory: what each says, read and written.

    0  2  4        8
    ┌──┬──┬────────┬ ─ ─
    │type│size│trans_id│ body          little-endian; `size` counts the header too
    └──┴──┴────────┴ ─ ─
    a range: bits 0-39 first page, bits 40-63 number of pages

Nothing of a message is believed before it was compared with what arrived: `size` with the bytes
that are there, the number of ranges with `size`.  What a field says is not judged here; a range may
name memory that does not exist, or end beyond what 40 bits can name.
Not here: which message may come when (host, driver), packets of the bus that carries them.
Units: 4 KiB pages, whatever the guest's page is.
Source: Linux drivers/hv/hv_balloon.c, QEMU include/hw/hyperv/dynmem-proto.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import WireError
from ballonet.memory.runs import PageRuns

__all__ = [
    "HEADER_BYTES",
    "MESSAGE_BYTES_MAX",
    "RANGES_MAX",
    "RANGE_PAGES_MAX",
    "BalloonRequest",
    "BalloonResponse",
    "CapabilitiesReport",
    "CapabilitiesResponse",
    "Capability",
    "HotAddRequest",
    "HotAddResponse",
    "HotRemoveRequest",
    "HotRemoveResponse",
    "Info",
    "Message",
    "MessageType",
    "PageRange",
    "RawRanges",
    "StatusReport",
    "UnballoonRequest",
    "UnballoonResponse",
    "Version",
    "VersionRequest",
    "VersionResponse",
    "format_version",
    "join_ranges",
    "parse",
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
_U64_MAX: Final = (1 << 64) - 1
_SOURCE: Final = "dynmem-proto.h"

_HEADER: Final = Struct("<HHI")
_TWO_WORDS: Final = Struct("<II")
_LONG: Final = Struct("<Q")
_CAPABILITIES: Final = Struct("<QQQ")
_STATUS: Final = Struct("<QQQQII")
_INFO: Final = Struct("<IIIIQ")
_HOT_REMOVE: Final = Struct("<IIII")
_HOT_REMOVED: Final = Struct("<IIQ")
#: Where the ranges of a balloon response and of an unballoon request begin.
_RANGES_AT: Final = HEADER_BYTES + _TWO_WORDS.size
_RANGE_BYTES: Final = 8
#: Ranges that have room in one message.
RANGES_MAX: Final = (MESSAGE_BYTES_MAX - _RANGES_AT) // _RANGE_BYTES


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


@dataclass(frozen=True, slots=True)
class VersionRequest:
    """The guest would speak this version."""

    trans_id: int
    version: int
    is_last: bool  #: it has no other to offer

    def build(self) -> bytes:
        """Its bytes."""
        body = _TWO_WORDS.pack(self.version, self.is_last)
        return _build(MessageType.VERSION_REQUEST, self.trans_id, body)


@dataclass(frozen=True, slots=True)
class VersionResponse:
    """The host's word on a version."""

    trans_id: int
    is_accepted: bool

    def build(self) -> bytes:
        """Its bytes."""
        body = _LONG.pack(self.is_accepted)
        return _build(MessageType.VERSION_RESPONSE, self.trans_id, body)


@dataclass(frozen=True, slots=True)
class CapabilitiesReport:
    """What the guest can do."""

    trans_id: int
    capabilities: int  #: bits of `Capability`, and the alignment
    min_pages: int = 0  #: no host looks at it, nor at the next
    max_page_number: int = _U64_MAX

    def build(self) -> bytes:
        """Its bytes."""
        body = _CAPABILITIES.pack(self.capabilities, self.min_pages, self.max_page_number)
        return _build(MessageType.CAPABILITIES_REPORT, self.trans_id, body)


@dataclass(frozen=True, slots=True)
class CapabilitiesResponse:
    """The host's word on them."""

    trans_id: int
    is_accepted: bool
    hot_remove: bool = False  #: the host can take memory away, too
    suppress_status: bool = False  #: it does not care for status reports

    def build(self) -> bytes:
        """Its bytes."""
        bits = self.is_accepted | self.hot_remove << 1 | self.suppress_status << 2
        return _build(MessageType.CAPABILITIES_RESPONSE, self.trans_id, _LONG.pack(bits))


@dataclass(frozen=True, slots=True)
class StatusReport:
    """How much memory the guest has, and needs; in pages."""

    trans_id: int
    available: int
    committed: int  #: the only one that Windows' host looks at
    page_file: int = 0
    zero_free: int = 0
    page_file_writes: int = 0
    io_diff: int = 0

    def build(self) -> bytes:
        """Its bytes."""
        body = _STATUS.pack(
            *(self.available, self.committed, self.page_file, self.zero_free),
            *(self.page_file_writes, self.io_diff),
        )
        return _build(MessageType.STATUS_REPORT, self.trans_id, body)


@dataclass(frozen=True, slots=True)
class BalloonRequest:
    """The host wants so many pages."""

    trans_id: int
    pages: int

    def build(self) -> bytes:
        """Its bytes."""
        body = _TWO_WORDS.pack(self.pages, 0)
        return _build(MessageType.BALLOON_REQUEST, self.trans_id, body)


@dataclass(frozen=True, slots=True, eq=False)
class BalloonResponse:
    """Pages that the guest gives; none: it is as small as it can be."""

    trans_id: int
    ranges: RawRanges
    more: bool  #: this is not the last response to its request

    def build(self) -> bytes:
        """Its bytes; at most RANGES_MAX ranges."""
        head = _TWO_WORDS.pack(0, self.ranges.size << 1 | self.more)
        body = head + self.ranges.astype("<u8").tobytes()
        return _build(MessageType.BALLOON_RESPONSE, self.trans_id, body)


@dataclass(frozen=True, slots=True, eq=False)
class UnballoonRequest:
    """Pages that the guest gets back; it answers the last message only."""

    trans_id: int
    ranges: RawRanges
    more: bool

    def build(self) -> bytes:
        """Its bytes; at most RANGES_MAX ranges."""
        head = _TWO_WORDS.pack(self.more, self.ranges.size)
        body = head + self.ranges.astype("<u8").tobytes()
        return _build(MessageType.UNBALLOON_REQUEST, self.trans_id, body)


@dataclass(frozen=True, slots=True)
class UnballoonResponse:
    """The guest has them."""

    trans_id: int

    def build(self) -> bytes:
        """Its bytes."""
        return _build(MessageType.UNBALLOON_RESPONSE, self.trans_id, b"")


@dataclass(frozen=True, slots=True)
class HotAddRequest:
    """Memory that the guest did not have; `region`, if given, is what it lies in."""

    trans_id: int
    added: PageRange
    region: PageRange | None = None

    def build(self) -> bytes:
        """Its bytes."""
        body = _LONG.pack(self.added.word)
        if self.region is not None:
            body += _LONG.pack(self.region.word)
        return _build(MessageType.HOT_ADD_REQUEST, self.trans_id, body)


@dataclass(frozen=True, slots=True)
class HotAddResponse:
    """How much of it the guest took.

    Linux: none and `result` 1: it never will; none and `result` 0: the host may try again.
    """

    trans_id: int
    pages: int
    result: int

    def build(self) -> bytes:
        """Its bytes."""
        body = _TWO_WORDS.pack(self.pages, self.result)
        return _build(MessageType.HOT_ADD_RESPONSE, self.trans_id, body)


@dataclass(frozen=True, slots=True)
class Info:
    """Something the guest may like to know; `info_type` 0: the most pages it will ever have."""

    trans_id: int
    data: int
    info_type: int = 0

    def build(self) -> bytes:
        """Its bytes."""
        of_info = _INFO.size - _TWO_WORDS.size
        body = _INFO.pack(0, of_info, self.info_type, _LONG.size, self.data)
        return _build(MessageType.INFO, self.trans_id, body)


@dataclass(frozen=True, slots=True)
class HotRemoveRequest:
    """The host wants pages of one NUMA node, for good."""

    trans_id: int
    node: int
    pages: int
    qos: int = 0

    def build(self) -> bytes:
        """Its bytes."""
        body = _HOT_REMOVE.pack(self.node, self.pages, self.qos, 0)
        return _build(MessageType.HOT_REMOVE_REQUEST, self.trans_id, body)


@dataclass(frozen=True, slots=True, eq=False)
class HotRemoveResponse:
    """Pages that the guest removed."""

    trans_id: int
    result: int
    ranges: RawRanges
    more: bool

    def build(self) -> bytes:
        """Its bytes; at most RANGES_MAX - 1 ranges."""
        head = _HOT_REMOVED.pack(self.result, self.ranges.size, self.more)
        body = head + self.ranges.astype("<u8").tobytes()
        return _build(MessageType.HOT_REMOVE_RESPONSE, self.trans_id, body)


Message = (
    VersionRequest
    | VersionResponse
    | CapabilitiesReport
    | CapabilitiesResponse
    | StatusReport
    | BalloonRequest
    | BalloonResponse
    | UnballoonRequest
    | UnballoonResponse
    | HotAddRequest
    | HotAddResponse
    | Info
    | HotRemoveRequest
    | HotRemoveResponse
)


def parse(raw: bytes) -> Message:
    """What a message says; bytes behind its end, as a bus pads it, are not looked at.

    Raises: WireError, if it is shorter than it says or than its type must be, or of no known type.
    """
    if len(raw) < HEADER_BYTES:
        raise WireError("message", f"{len(raw)} bytes", "a header has 8", _SOURCE)
    number, size, trans_id = _HEADER.unpack_from(raw)
    layout = _LAYOUTS.get(number)
    if layout is None:
        raise WireError("message type", number, "1 to 14", _SOURCE)
    if not layout.bytes_min <= size <= len(raw):
        rule = f"at least {layout.bytes_min}, and not more than the {len(raw)} that came"
        raise WireError(f"size of {MessageType(number).name}", size, rule, _SOURCE)
    return layout.read(trans_id, raw[:size])


class _Layout(NamedTuple):
    """How messages of one type are read."""

    bytes_min: int
    read: Callable[[int, bytes], Message]


def _build(kind: MessageType, trans_id: int, body: bytes) -> bytes:
    return _HEADER.pack(kind, HEADER_BYTES + len(body), trans_id) + body


def _read_version_request(trans_id: int, raw: bytes) -> VersionRequest:
    version, flags = _TWO_WORDS.unpack_from(raw, HEADER_BYTES)
    return VersionRequest(trans_id, version, bool(flags & 1))


def _read_version_response(trans_id: int, raw: bytes) -> VersionResponse:
    (flags,) = _LONG.unpack_from(raw, HEADER_BYTES)
    return VersionResponse(trans_id, bool(flags & 1))


def _read_capabilities_report(trans_id: int, raw: bytes) -> CapabilitiesReport:
    return CapabilitiesReport(trans_id, *_CAPABILITIES.unpack_from(raw, HEADER_BYTES))


def _read_capabilities_response(trans_id: int, raw: bytes) -> CapabilitiesResponse:
    (flags,) = _LONG.unpack_from(raw, HEADER_BYTES)
    return CapabilitiesResponse(trans_id, bool(flags & 1), bool(flags & 2), bool(flags & 4))


def _read_status_report(trans_id: int, raw: bytes) -> StatusReport:
    return StatusReport(trans_id, *_STATUS.unpack_from(raw, HEADER_BYTES))


def _read_balloon_request(trans_id: int, raw: bytes) -> BalloonRequest:
    pages, _ = _TWO_WORDS.unpack_from(raw, HEADER_BYTES)
    return BalloonRequest(trans_id, pages)


def _read_balloon_response(trans_id: int, raw: bytes) -> BalloonResponse:
    _, word = _TWO_WORDS.unpack_from(raw, HEADER_BYTES)
    return BalloonResponse(trans_id, _read_ranges(raw, _RANGES_AT, word >> 1), bool(word & 1))


def _read_unballoon_request(trans_id: int, raw: bytes) -> UnballoonRequest:
    flags, count = _TWO_WORDS.unpack_from(raw, HEADER_BYTES)
    return UnballoonRequest(trans_id, _read_ranges(raw, _RANGES_AT, count), bool(flags & 1))


def _read_unballoon_response(trans_id: int, _: bytes) -> UnballoonResponse:
    return UnballoonResponse(trans_id)


def _read_hot_add_request(trans_id: int, raw: bytes) -> HotAddRequest:
    words = [word for (word,) in _LONG.iter_unpack(raw[HEADER_BYTES : len(raw) // 8 * 8])]
    region = PageRange.of_word(words[1]) if len(words) > 1 else None
    return HotAddRequest(trans_id, PageRange.of_word(words[0]), region)


def _read_hot_add_response(trans_id: int, raw: bytes) -> HotAddResponse:
    return HotAddResponse(trans_id, *_TWO_WORDS.unpack_from(raw, HEADER_BYTES))


def _read_info(trans_id: int, raw: bytes) -> Info:
    _, _, kind, _, data = _INFO.unpack_from(raw, HEADER_BYTES)
    return Info(trans_id, data, kind)


def _read_hot_remove_request(trans_id: int, raw: bytes) -> HotRemoveRequest:
    node, pages, qos, _ = _HOT_REMOVE.unpack_from(raw, HEADER_BYTES)
    return HotRemoveRequest(trans_id, node, pages, qos)


def _read_hot_remove_response(trans_id: int, raw: bytes) -> HotRemoveResponse:
    result, count, flags = _HOT_REMOVED.unpack_from(raw, HEADER_BYTES)
    ranges = _read_ranges(raw, HEADER_BYTES + _HOT_REMOVED.size, count)
    return HotRemoveResponse(trans_id, result, ranges, bool(flags & 1))


def _read_ranges(raw: bytes, at: int, count: int) -> RawRanges:
    """So many ranges from there. Raises: WireError, if there are not so many."""
    if at + _RANGE_BYTES * count > len(raw):
        room = (len(raw) - at) // _RANGE_BYTES
        raise WireError("number of ranges", count, f"the message has {room}", _SOURCE)
    return np.frombuffer(raw, "<u8", count, at).astype(np.uint64)


def _layout(body_bytes: int, read: Callable[[int, bytes], Message]) -> _Layout:
    return _Layout(HEADER_BYTES + body_bytes, read)


_LAYOUTS: Final[dict[int, _Layout]] = {
    MessageType.VERSION_REQUEST: _layout(_TWO_WORDS.size, _read_version_request),
    MessageType.VERSION_RESPONSE: _layout(_LONG.size, _read_version_response),
    MessageType.CAPABILITIES_REPORT: _layout(_CAPABILITIES.size, _read_capabilities_report),
    MessageType.CAPABILITIES_RESPONSE: _layout(_LONG.size, _read_capabilities_response),
    MessageType.STATUS_REPORT: _layout(_STATUS.size, _read_status_report),
    MessageType.BALLOON_REQUEST: _layout(_TWO_WORDS.size, _read_balloon_request),
    MessageType.BALLOON_RESPONSE: _layout(_TWO_WORDS.size, _read_balloon_response),
    MessageType.UNBALLOON_REQUEST: _layout(_TWO_WORDS.size, _read_unballoon_request),
    MessageType.UNBALLOON_RESPONSE: _layout(0, _read_unballoon_response),
    MessageType.HOT_ADD_REQUEST: _layout(_LONG.size, _read_hot_add_request),
    MessageType.HOT_ADD_RESPONSE: _layout(_TWO_WORDS.size, _read_hot_add_response),
    MessageType.INFO: _layout(_INFO.size, _read_info),
    MessageType.HOT_REMOVE_REQUEST: _layout(_HOT_REMOVE.size, _read_hot_remove_request),
    MessageType.HOT_REMOVE_RESPONSE: _layout(_HOT_REMOVED.size, _read_hot_remove_response),
}
