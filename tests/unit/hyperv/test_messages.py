"""Every message against bytes written down by hand, and what a peer may get wrong."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from ballonet.errors import WireError
from ballonet.hyperv.layouts import (
    MESSAGE_BYTES_MAX,
    RANGES_MAX,
    Capability,
    PageRange,
    Version,
    format_version,
    join_ranges,
    split_ranges,
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
from ballonet.hyperv.parser import parse
from ballonet.memory.runs import PageRuns

TWO_RANGES = np.array([0x0002_0000_0000_1234, 0x0200_0000_00AB_CDEF], np.uint64)
OF_TWO = "34 12 00 00 00 00 02 00  ef cd ab 00 00 00 00 02"

GOLDEN: list[tuple[Message, str]] = [
    (
        VersionRequest(1, Version.V2_0, is_last=False),
        "01 00 10 00 01 00 00 00  00 00 02 00 00 00 00 00",
    ),
    (VersionRequest(9, Version.V0_3, is_last=True), "0100 1000 09000000 03000000 01000000"),
    (VersionResponse(9, is_accepted=True), "0200 1000 09000000 0100000000000000"),
    (
        CapabilitiesReport(2, 0x1F),
        "0300 2000 02000000 1f00000000000000 0000000000000000 ffffffffffffffff",
    ),
    (
        CapabilitiesResponse(2, is_accepted=True, hot_remove=True, suppress_status=True),
        "0400 1000 02000000 0700000000000000",
    ),
    (
        StatusReport(3, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66),
        f"0500 3000 03000000 11{'00' * 7} 22{'00' * 7} 33{'00' * 7} 44{'00' * 7} 55000000 66000000",
    ),
    (BalloonRequest(4, 60_000), "0600 1000 04000000 60ea0000 00000000"),
    (
        BalloonResponse(5, TWO_RANGES, more=True),
        f"0700 2000 05000000 00000000 05000000 {OF_TWO}",
    ),
    (
        UnballoonRequest(6, TWO_RANGES, more=True),
        f"0800 2000 06000000 01000000 02000000 {OF_TWO}",
    ),
    (UnballoonResponse(7), "0900 0800 07000000"),
    (HotAddRequest(8, PageRange(0x1234, 0x200)), "0a00 1000 08000000 3412000000000200"),
    (
        HotAddRequest(8, PageRange(0x1234, 0x200), PageRange(0x1000, 0x8000)),
        "0a00 1800 08000000 3412000000000200 0010000000008000",
    ),
    (HotAddResponse(9, 0x200, 1), "0b00 1000 09000000 00020000 01000000"),
    (
        Info(10, 0x10000),
        "0c00 2000 0a000000 00000000 10000000 00000000 08000000 0000010000000000",
    ),
    (HotRemoveRequest(11, 1, 2, 3), "0d00 1800 0b000000 01000000 02000000 03000000 00000000"),
    (
        HotRemoveResponse(12, 1, TWO_RANGES, more=True),
        f"0e00 2800 0c000000 01000000 02000000 0100000000000000 {OF_TWO}",
    ),
]


def fields(message: Message) -> dict[str, object]:
    found = {name: getattr(message, name) for name in type(message).__slots__}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in found.items()
    }


@pytest.mark.parametrize(("message", "text"), GOLDEN, ids=lambda one: type(one).__name__)
def test_a_message_has_these_bytes_and_they_say_the_same(message: Message, text: str) -> None:
    raw = bytes.fromhex(text)
    assert message.build() == raw
    found = parse(raw)
    assert type(found) is type(message)
    assert fields(found) == fields(message)


@pytest.mark.parametrize(("message", "text"), GOLDEN, ids=lambda one: type(one).__name__)
def test_a_message_cut_short_anywhere_is_refused(message: Message, text: str) -> None:
    raw = bytes.fromhex(text)
    for length in range(len(raw)):
        with pytest.raises(WireError):
            parse(raw[:length])
    with_padding = parse(raw + b"\xaa" * 7)
    assert fields(with_padding) == fields(message)


@pytest.mark.parametrize("text", [text for _, text in GOLDEN])
def test_a_size_below_what_the_type_needs_is_refused(text: str) -> None:
    raw = bytearray(bytes.fromhex(text))
    for size in {0, 7, len(raw) - 9} - {16}:
        if size < 0:
            continue
        struct.pack_into("<H", raw, 2, size)
        with pytest.raises(WireError):
            parse(bytes(raw))


@pytest.mark.parametrize("kind", [0, 15, 255, 65535])
def test_an_unknown_type_is_refused(kind: int) -> None:
    with pytest.raises(WireError, match="message type"):
        parse(struct.pack("<HHIQ", kind, 16, 0, 0))


@pytest.mark.parametrize("count", [3, 4, 1 << 20, (1 << 31) - 1])
def test_more_ranges_than_the_message_holds_are_refused(count: int) -> None:
    ranges = TWO_RANGES.tobytes()
    response = struct.pack("<HHIII", 7, 16 + len(ranges), 1, 0, count << 1) + ranges
    request = struct.pack("<HHIII", 8, 16 + len(ranges), 1, 0, count) + ranges
    removed = struct.pack("<HHIIIQ", 14, 24 + len(ranges), 1, 0, count, 0) + ranges
    for raw in (response, request, removed, response + bytes(64)):
        with pytest.raises(WireError, match="number of ranges"):
            parse(raw)


def test_fewer_ranges_than_the_message_holds_are_taken_as_they_are_counted() -> None:
    raw = struct.pack("<HHIII", 7, 32, 1, 0, 1 << 1) + TWO_RANGES.tobytes()
    found = parse(raw)
    assert isinstance(found, BalloonResponse)
    assert found.ranges.tolist() == [TWO_RANGES[0]]
    assert not found.more


def test_a_range_is_split_at_its_40th_bit() -> None:
    edge = (1 << 64) - 1
    runs = split_ranges(np.array([edge, 5, 7 << 40], np.uint64))
    assert runs.first_pfns.tolist() == [(1 << 40) - 1, 5, 0]
    assert runs.pages.tolist() == [(1 << 24) - 1, 0, 7]
    assert join_ranges(runs).tolist() == [edge, 5, 7 << 40]
    assert join_ranges(PageRuns(np.array([3]), np.array([4]))).tolist() == [3 | 4 << 40]


def test_a_message_of_the_most_ranges_fills_the_page_both_ends_have_for_it() -> None:
    ranges = np.zeros(RANGES_MAX, np.uint64)
    assert RANGES_MAX == 510
    assert len(BalloonResponse(1, ranges, more=False).build()) == MESSAGE_BYTES_MAX


@pytest.mark.parametrize(("mib", "bits"), [(1, 0), (2, 1 << 2), (128, 7 << 2), (32768, 15 << 2)])
def test_the_alignment_is_a_power_of_two_of_mib(mib: int, bits: int) -> None:
    assert Capability.of_alignment(mib) == bits
    assert Capability.alignment_mib(bits | 0b100_0011) == mib


def test_versions_are_written_as_people_do() -> None:
    assert [format_version(one) for one in Version] == ["0.3", "1.0", "2.0"]
