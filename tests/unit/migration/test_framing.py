"""Headers: what is wrong with one is noticed before anything is taken for what it announces."""

import struct
import zlib

import pytest
from tests.unit.migration.stream_under_test import begin, make_runs, page, pages

from ballonet.errors import StreamError
from ballonet.migration.framing import (
    HEADER_BYTES,
    PREAMBLE,
    RecordReader,
    RecordWriter,
    payload_max,
)
from ballonet.migration.records import (
    BACKWARD,
    FORWARD,
    Failed,
    Holes,
    Loaded,
    Pass,
    Ready,
    Record,
    RecordType,
    Totals,
)


def header(
    kind: int = 1,
    table_bytes: int = 56,
    number: int = 0,
    payload_bytes: int = 56,
    table_crc: int = 0,
    data_crc: int = 0,
) -> bytes:
    """Any header, its checksum right."""
    raw = struct.pack("<IIQQII", kind, table_bytes, number, payload_bytes, table_crc, data_crc)
    return raw + struct.pack("<I", zlib.crc32(raw))


def read_all(raw: bytes, kinds: frozenset[RecordType] = FORWARD) -> list[Record]:
    """Every record of some bytes, which end with one."""
    reader, records, at = RecordReader(kinds), [], 0
    while at < len(raw):
        buffer = reader.buffer
        buffer[:] = raw[at : at + len(buffer)]
        at += len(buffer)
        record = reader.filled()
        if record is not None:
            records.append(record)
    return records


def test_the_first_bytes_are_as_the_layout_says() -> None:
    writer = RecordWriter()
    first, second = b"".join(writer.pack(Ready())), b"".join(writer.pack(Failed("no")))
    assert first == b"BALLNMIG\x01\x00" + header(16, 0, 0, 0)
    assert second == header(20, 2, 1, 2, zlib.crc32(b"no")) + b"no"


def test_records_without_any_payload_are_read_too() -> None:
    writer = RecordWriter()
    raw = b"".join(b"".join(writer.pack(one)) for one in (Ready(), Loaded(), Failed("late")))
    assert read_all(raw, BACKWARD) == [Ready(), Loaded(), Failed("late")]


WRONG_HEADERS = {
    "unknown type": header(kind=99),
    "type of the other direction": header(kind=RecordType.READY, table_bytes=0, payload_bytes=0),
    "number of a later record": header(number=1),
    "table of nothing": header(table_bytes=0, payload_bytes=0),
    "table too large": header(table_bytes=1 << 31, payload_bytes=1 << 31),
    "payload of 2^63": header(payload_bytes=1 << 63),
    "payload below the table": header(payload_bytes=55),
    "data where there is none": header(payload_bytes=57),
    "data of pages above 1 MiB": header(RecordType.PAGES, 12, 0, 13 + (1 << 20)),
    "all ones": b"\xff" * HEADER_BYTES,
    "all zeros": bytes(HEADER_BYTES),
}


@pytest.mark.parametrize("name", list(WRONG_HEADERS))
def test_a_wrong_header_is_refused_before_its_payload_is_asked_for(name: str) -> None:
    reader = RecordReader(FORWARD)
    reader.buffer[:] = PREAMBLE
    assert reader.filled() is None
    reader.buffer[:] = WRONG_HEADERS[name]
    with pytest.raises(StreamError) as caught:
        reader.filled()
    assert caught.value.number == 0
    assert "\n" not in str(caught.value)
    with pytest.raises(StreamError, match="nothing is read"):
        reader.filled()


@pytest.mark.parametrize(
    ("preamble", "words"),
    [(b"BALLNMIG\x02\x00", "version 2"), (b"BALLNMIG\x00\x01", "version 256"), (bytes(10), "no")],
)
def test_another_version_or_another_program_is_refused_by_name(preamble: bytes, words: str) -> None:
    with pytest.raises(StreamError, match=words):
        read_all(preamble)


def test_no_header_can_make_the_reader_ask_for_more_than_its_limit() -> None:
    assert payload_max(FORWARD) < (1 << 20) + (128 << 10)
    assert payload_max(BACKWARD) < 128 << 10


def stream(*, has_checksums: bool) -> bytes:
    writer = RecordWriter()
    records = (begin(has_checksums=has_checksums), Pass(1), pages([5], (3, 1)))
    return b"".join(b"".join(writer.pack(one)) for one in records)


def test_a_page_that_was_changed_on_the_way_is_noticed() -> None:
    raw = bytearray(stream(has_checksums=True))
    raw[-100] ^= 1
    with pytest.raises(StreamError, match="data") as caught:
        read_all(bytes(raw))
    assert (caught.value.record, caught.value.number) == ("PAGES", 2)


def test_without_checksums_of_pages_everything_else_still_has_them() -> None:
    raw = bytearray(stream(has_checksums=False))
    raw[-100] ^= 1
    assert len(read_all(bytes(raw))) == 3
    raw[-len(page(0)) - 1] ^= 1  # the last byte of the table of runs
    with pytest.raises(StreamError, match="table") as caught:
        read_all(bytes(raw))
    assert caught.value.number == 2


def test_a_writer_counts_what_it_has_packed() -> None:
    writer = RecordWriter()
    for record in (begin(), Pass(1), pages([1, 2], (4, 2)), Holes(make_runs((0, 3), (8, 1)))):
        writer.pack(record)
    assert writer.totals == Totals(pages=2, hole_pages=4, records=4)


def test_a_stream_cut_inside_a_record_names_it() -> None:
    raw = stream(has_checksums=True)
    reader = RecordReader(FORWARD)
    at = 0
    while len(raw) - at > len(reader.buffer):
        buffer = reader.buffer
        buffer[:] = raw[at : at + len(buffer)]
        at += len(buffer)
        reader.filled()
    with pytest.raises(StreamError, match="ends here") as caught:
        reader.cut()
    assert (caught.value.record, caught.value.number) == ("PAGES", 2)
