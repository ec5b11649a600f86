"""Streams that somebody has damaged: none is taken, none takes memory, none lets a guest run."""

import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.migration.stream_under_test import (
    SMALL_RESULT,
    Destination,
    begin,
    refusal,
    small_migration,
    written,
)

from ballonet.errors import StreamError
from ballonet.migration.framing import PREAMBLE, payload_max
from ballonet.migration.records import FORWARD

RECORDS = written(small_migration())
RAW = b"".join(RECORDS)
HEADER = 36
ENDS = [sum(map(len, RECORDS[: i + 1])) for i in range(len(RECORDS))]
#: Everything but what is in the pages, where each bit counts without checksums of pages, too.
FLIPS = 3000


def check(raw: bytes) -> StreamError:
    error, destination = refusal(raw)
    assert destination.largest_buffer <= payload_max(FORWARD)
    assert "\n" not in str(error)
    return error


def test_the_stream_itself_is_taken() -> None:
    destination = Destination()
    destination.take(RAW)
    assert destination.incoming.is_complete
    assert destination.memory.pages == SMALL_RESULT


@pytest.mark.parametrize("end", [0, *ENDS[:-1]])
def test_a_stream_that_ends_between_records_is_not_taken_for_whole(end: int) -> None:
    assert "ends here" in str(check(RAW[:end]))


def test_a_stream_that_ends_inside_anything_but_pages_is_not_taken_for_whole() -> None:
    starts = [0, *ENDS[:-1]]
    for start, end in zip(starts, ENDS, strict=True):
        for cut in range(start + 1, min(end, start + len(PREAMBLE) + HEADER + 80)):
            check(RAW[:cut])


@given(st.integers(1, len(RAW) - 1))
def test_a_stream_that_ends_anywhere_is_not_taken_for_whole(end: int) -> None:
    check(RAW[:end])


@pytest.mark.parametrize("place", range(len(RECORDS)))
def test_a_record_that_is_missing_is_noticed_at_the_next(place: int) -> None:
    error = check(b"".join(RECORDS[:place] + RECORDS[place + 1 :]))
    assert error.number in (0, place)


@pytest.mark.parametrize("place", range(len(RECORDS) - 1))
def test_a_record_that_comes_twice_is_noticed(place: int) -> None:
    error = check(b"".join(RECORDS[: place + 1] + RECORDS[place:]))
    assert error.number == place + 1


def test_nothing_is_read_behind_the_end() -> None:
    destination = Destination()
    with pytest.raises(StreamError, match="number is"):
        destination.take(RAW + RECORDS[-1])


@given(st.permutations(range(len(RECORDS))))
def test_records_in_another_order_are_noticed(order: list[int]) -> None:
    if order == sorted(order):
        return
    check(b"".join(RECORDS[i] for i in order))


def renumbered(records: list[bytes]) -> bytes:
    """Records that claim to be in order, their checksums right: the work of one who means harm."""
    out = b""
    for number, record in enumerate(records):
        body = record.removeprefix(PREAMBLE)
        fields = body[:8] + struct.pack("<Q", number) + body[16:32]
        out += (b"" if number else PREAMBLE) + fields + struct.pack("<I", zlib.crc32(fields))
        out += body[HEADER:]
    return out


def test_the_renumbered_stream_is_the_stream() -> None:
    assert renumbered(RECORDS) == RAW


@pytest.mark.parametrize("place", range(len(RECORDS)))
def test_a_record_left_out_on_purpose_is_missed_by_the_totals_or_before(place: int) -> None:
    check(renumbered(RECORDS[:place] + RECORDS[place + 1 :]))


@pytest.mark.parametrize("place", range(len(RECORDS) - 1))
def test_a_record_repeated_on_purpose_is_noticed_by_the_totals_or_before(place: int) -> None:
    check(renumbered(RECORDS[: place + 1] + RECORDS[place:]))


def test_no_bit_may_change() -> None:
    chosen = random.Random(8)  # noqa: S311 - not a secret
    for _ in range(FLIPS):
        raw = bytearray(RAW)
        place = chosen.randrange(len(raw))
        raw[place] ^= 1 << chosen.randrange(8)
        check(bytes(raw))


def test_without_checksums_of_pages_no_bit_of_anything_else_may_change() -> None:
    records = written([begin(has_checksums=False), *small_migration()[1:]])
    at = 0
    for record in records:
        size = len(record) % 4096  # all but whole pages, which come last in a record
        for place in range(at, at + size):
            raw = bytearray(b"".join(records))
            raw[place] ^= 0x10
            check(bytes(raw))
        at += len(record)


@given(st.binary(max_size=200))
def test_noise_is_no_stream(noise: bytes) -> None:
    check(noise)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_any_header_with_a_right_checksum_is_bounded(fields: bytes, rest: bytes) -> None:
    check(PREAMBLE + fields + struct.pack("<I", zlib.crc32(fields)) + rest)


@given(
    place=st.integers(0, len(RECORDS) - 1),
    field=st.sampled_from([(0, "<I"), (4, "<I"), (8, "<Q"), (16, "<Q"), (24, "<I"), (28, "<I")]),
    value=st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]),
)
def test_a_header_field_that_is_replaced_on_purpose_is_refused(
    place: int, field: tuple[int, str], value: int
) -> None:
    offset, form = field
    value &= (1 << 8 * struct.calcsize(form)) - 1
    record = RECORDS[place].removeprefix(PREAMBLE)
    packed = struct.pack(form, value)
    fields = record[:offset] + packed + record[offset + len(packed) : 32]
    if fields == record[:32]:
        return
    forged = fields + struct.pack("<I", zlib.crc32(fields)) + record[HEADER:]
    before = b"".join(RECORDS[:place]) or PREAMBLE
    check(before + forged + b"".join(RECORDS[place + 1 :]))
