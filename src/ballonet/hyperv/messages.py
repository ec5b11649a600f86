"""The messages of Hyper-V's Dynamic Memory: what each says, and its bytes.

What a field says is not judged here; a range may name memory that does not exist, or end beyond
what 40 bits can name.
Not here: how one is read (parser.py), which may come when (host, driver).
Units: 4 KiB pages, whatever the guest's page is.
Source: Linux drivers/hv/hv_balloon.c, QEMU include/hw/hyperv/dynmem-proto.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ballonet.hyperv.layouts import (
    CAPABILITIES,
    HEADER,
    HEADER_BYTES,
    HOT_REMOVE,
    HOT_REMOVED,
    INFO,
    LONG,
    STATUS,
    TWO_WORDS,
    MessageType,
    PageRange,
    RawRanges,
)

__all__ = [
    "BalloonRequest",
    "BalloonResponse",
    "CapabilitiesReport",
    "CapabilitiesResponse",
    "HotAddRequest",
    "HotAddResponse",
    "HotRemoveRequest",
    "HotRemoveResponse",
    "Info",
    "Message",
    "StatusReport",
    "UnballoonRequest",
    "UnballoonResponse",
    "VersionRequest",
    "VersionResponse",
]

_U64_MAX: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class VersionRequest:
    """The guest would speak this version."""

    trans_id: int
    version: int
    is_last: bool  #: it has no other to offer

    def build(self) -> bytes:
        """Its bytes."""
        body = TWO_WORDS.pack(self.version, self.is_last)
        return _build(MessageType.VERSION_REQUEST, self.trans_id, body)


@dataclass(frozen=True, slots=True)
class VersionResponse:
    """The host's word on a version."""

    trans_id: int
    is_accepted: bool

    def build(self) -> bytes:
        """Its bytes."""
        body = LONG.pack(self.is_accepted)
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
        body = CAPABILITIES.pack(self.capabilities, self.min_pages, self.max_page_number)
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
        return _build(MessageType.CAPABILITIES_RESPONSE, self.trans_id, LONG.pack(bits))


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
        body = STATUS.pack(
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
        body = TWO_WORDS.pack(self.pages, 0)
        return _build(MessageType.BALLOON_REQUEST, self.trans_id, body)


@dataclass(frozen=True, slots=True, eq=False)
class BalloonResponse:
    """Pages that the guest gives; none: it is as small as it can be."""

    trans_id: int
    ranges: RawRanges
    more: bool  #: this is not the last response to its request

    def build(self) -> bytes:
        """Its bytes; at most RANGES_MAX ranges."""
        head = TWO_WORDS.pack(0, self.ranges.size << 1 | self.more)
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
        head = TWO_WORDS.pack(self.more, self.ranges.size)
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
        body = LONG.pack(self.added.word)
        if self.region is not None:
            body += LONG.pack(self.region.word)
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
        body = TWO_WORDS.pack(self.pages, self.result)
        return _build(MessageType.HOT_ADD_RESPONSE, self.trans_id, body)


@dataclass(frozen=True, slots=True)
class Info:
    """Something the guest may like to know; `info_type` 0: the most pages it will ever have."""

    trans_id: int
    data: int
    info_type: int = 0

    def build(self) -> bytes:
        """Its bytes."""
        of_info = INFO.size - TWO_WORDS.size
        body = INFO.pack(0, of_info, self.info_type, LONG.size, self.data)
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
        body = HOT_REMOVE.pack(self.node, self.pages, self.qos, 0)
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
        head = HOT_REMOVED.pack(self.result, self.ranges.size, self.more)
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


def _build(kind: MessageType, trans_id: int, body: bytes) -> bytes:
    return HEADER.pack(kind, HEADER_BYTES + len(body), trans_id) + body
