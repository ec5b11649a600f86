"""What a message of Hyper-V's Dynamic Memory says, read from its bytes.

Nothing is believed before it was compared with what arrived: `size` with the bytes that are there,
the number of ranges with `size`.
Source: Linux drivers/hv/hv_balloon.c, QEMU include/hw/hyperv/dynmem-proto.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from ballonet.errors import WireError
from ballonet.hyperv.layouts import (
    CAPABILITIES,
    HEADER,
    HEADER_BYTES,
    HOT_REMOVE,
    HOT_REMOVED,
    INFO,
    LONG,
    RANGE_BYTES,
    RANGES_AT,
    STATUS,
    TWO_WORDS,
    MessageType,
    PageRange,
    RawRanges,
)
from ballonet.hyperv.messages import (
    BalloonRequest,
    BalloonResponse,
    CapabilitiesReport,
    CapabilitiesResponse,
    HotAddRequest,
    HotAddResponse,
    HotRemoveRequest,
    HotRemoveResponse,
    Info,
    Message,
    StatusReport,
    UnballoonRequest,
    UnballoonResponse,
    VersionRequest,
    VersionResponse,
)

__all__ = ["parse"]

_SOURCE: Final = "dynmem-proto.h"


def parse(raw: bytes) -> Message:
    """What a message says; bytes behind its end, as a bus pads it, are not looked at.

    Raises: WireError, if it is shorter than it says or than its type must be, or of no known type.
    """
    if len(raw) < HEADER_BYTES:
        raise WireError("message", f"{len(raw)} bytes", "a header has 8", _SOURCE)
    number, size, trans_id = HEADER.unpack_from(raw)
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


def _read_version_request(trans_id: int, raw: bytes) -> VersionRequest:
    version, flags = TWO_WORDS.unpack_from(raw, HEADER_BYTES)
    return VersionRequest(trans_id, version, bool(flags & 1))


def _read_version_response(trans_id: int, raw: bytes) -> VersionResponse:
    (flags,) = LONG.unpack_from(raw, HEADER_BYTES)
    return VersionResponse(trans_id, bool(flags & 1))


def _read_capabilities_report(trans_id: int, raw: bytes) -> CapabilitiesReport:
    return CapabilitiesReport(trans_id, *CAPABILITIES.unpack_from(raw, HEADER_BYTES))


def _read_capabilities_response(trans_id: int, raw: bytes) -> CapabilitiesResponse:
    (flags,) = LONG.unpack_from(raw, HEADER_BYTES)
    return CapabilitiesResponse(trans_id, bool(flags & 1), bool(flags & 2), bool(flags & 4))


def _read_status_report(trans_id: int, raw: bytes) -> StatusReport:
    return StatusReport(trans_id, *STATUS.unpack_from(raw, HEADER_BYTES))


def _read_balloon_request(trans_id: int, raw: bytes) -> BalloonRequest:
    pages, _ = TWO_WORDS.unpack_from(raw, HEADER_BYTES)
    return BalloonRequest(trans_id, pages)


def _read_balloon_response(trans_id: int, raw: bytes) -> BalloonResponse:
    _, word = TWO_WORDS.unpack_from(raw, HEADER_BYTES)
    return BalloonResponse(trans_id, _read_ranges(raw, RANGES_AT, word >> 1), bool(word & 1))


def _read_unballoon_request(trans_id: int, raw: bytes) -> UnballoonRequest:
    flags, count = TWO_WORDS.unpack_from(raw, HEADER_BYTES)
    return UnballoonRequest(trans_id, _read_ranges(raw, RANGES_AT, count), bool(flags & 1))


def _read_unballoon_response(trans_id: int, _: bytes) -> UnballoonResponse:
    return UnballoonResponse(trans_id)


def _read_hot_add_request(trans_id: int, raw: bytes) -> HotAddRequest:
    words = [word for (word,) in LONG.iter_unpack(raw[HEADER_BYTES : len(raw) // 8 * 8])]
    region = PageRange.of_word(words[1]) if len(words) > 1 else None
    return HotAddRequest(trans_id, PageRange.of_word(words[0]), region)


def _read_hot_add_response(trans_id: int, raw: bytes) -> HotAddResponse:
    return HotAddResponse(trans_id, *TWO_WORDS.unpack_from(raw, HEADER_BYTES))


def _read_info(trans_id: int, raw: bytes) -> Info:
    _, _, kind, _, data = INFO.unpack_from(raw, HEADER_BYTES)
    return Info(trans_id, data, kind)


def _read_hot_remove_request(trans_id: int, raw: bytes) -> HotRemoveRequest:
    node, pages, qos, _ = HOT_REMOVE.unpack_from(raw, HEADER_BYTES)
    return HotRemoveRequest(trans_id, node, pages, qos)


def _read_hot_remove_response(trans_id: int, raw: bytes) -> HotRemoveResponse:
    result, count, flags = HOT_REMOVED.unpack_from(raw, HEADER_BYTES)
    ranges = _read_ranges(raw, HEADER_BYTES + HOT_REMOVED.size, count)
    return HotRemoveResponse(trans_id, result, ranges, bool(flags & 1))


def _read_ranges(raw: bytes, at: int, count: int) -> RawRanges:
    """So many ranges from there. Raises: WireError, if there are not so many."""
    if at + RANGE_BYTES * count > len(raw):
        room = (len(raw) - at) // RANGE_BYTES
        raise WireError("number of ranges", count, f"the message has {room}", _SOURCE)
    return np.frombuffer(raw, "<u8", count, at).astype(np.uint64)


def _layout(body_bytes: int, read: Callable[[int, bytes], Message]) -> _Layout:
    return _Layout(HEADER_BYTES + body_bytes, read)


_LAYOUTS: Final[dict[int, _Layout]] = {
    MessageType.VERSION_REQUEST: _layout(TWO_WORDS.size, _read_version_request),
    MessageType.VERSION_RESPONSE: _layout(LONG.size, _read_version_response),
    MessageType.CAPABILITIES_REPORT: _layout(CAPABILITIES.size, _read_capabilities_report),
    MessageType.CAPABILITIES_RESPONSE: _layout(LONG.size, _read_capabilities_response),
    MessageType.STATUS_REPORT: _layout(STATUS.size, _read_status_report),
    MessageType.BALLOON_REQUEST: _layout(TWO_WORDS.size, _read_balloon_request),
    MessageType.BALLOON_RESPONSE: _layout(TWO_WORDS.size, _read_balloon_response),
    MessageType.UNBALLOON_REQUEST: _layout(TWO_WORDS.size, _read_unballoon_request),
    MessageType.UNBALLOON_RESPONSE: _layout(0, _read_unballoon_response),
    MessageType.HOT_ADD_REQUEST: _layout(LONG.size, _read_hot_add_request),
    MessageType.HOT_ADD_RESPONSE: _layout(TWO_WORDS.size, _read_hot_add_response),
    MessageType.INFO: _layout(INFO.size, _read_info),
    MessageType.HOT_REMOVE_REQUEST: _layout(HOT_REMOVE.size, _read_hot_remove_request),
    MessageType.HOT_REMOVE_RESPONSE: _layout(HOT_REMOVED.size, _read_hot_remove_response),
}
