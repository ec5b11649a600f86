"""Every record as bytes, against a table written down by hand; and what is no record."""

import dataclasses
import struct

import numpy as np
import pytest
from tests.unit.migration.stream_under_test import begin, make_runs, page, pages, state, verify

from ballonet.errors import UsageError, WireError
from ballonet.memory.runs import PageRuns
from ballonet.migration.record_tables import LIMITS, pack_table, parse_record
from ballonet.migration.records import (
    BACKWARD,
    FORWARD,
    End,
    Failed,
    Go,
    Holes,
    Loaded,
    Pages,
    Pass,
    Postcopy,
    Ready,
    Received,
    Record,
    RecordType,
    State,
    StateName,
    Totals,
    Verify,
    Wanted,
)

TOTALS = Totals(1, 2, 3)

#: Each record, and its table in hexadecimal, written from the layout in records.py.
GOLDEN: dict[str, tuple[Record, str]] = {
    "BEGIN": (
        begin(may_postcopy=True, migration_id=0x1234),
        (
            "00100000 03000000 3412000000000000"
            "0000000000000000 0000010000000000 0010000000000000"
            "0000020000000000 0000010000000000 0010000000000000"
        ),
    ),
    "PASS": (Pass(1 << 32), "0000000001000000"),
    "PAGES": (pages([7, 8], (2, 1), (5, 1)), "020000000000000001000000 050000000000000001000000"),
    "HOLES": (Holes(make_runs((1 << 33, 3))), "000000000200000003000000"),
    "STATE": (state(StateName.DEVICE, b"xyz", 1, 2), "03000000 01000000 02000000"),
    "POSTCOPY": (
        Postcopy(TOTALS, is_last=True, runs=make_runs((9, 4))),
        "0100000000000000 0200000000000000 0300000000000000 01000000 090000000000000004000000",
    ),
    "END": (End(TOTALS), "0100000000000000 0200000000000000 0300000000000000"),
    "GO": (Go(is_paused=True), "01000000"),
    "VERIFY": (verify([0, 7], (7, 2)), "070000000000000002000000"),
    "READY": (Ready(), ""),
    "LOADED": (Loaded(), ""),
    "WANTED": (Wanted(0x1234), "3412000000000000"),
    "RECEIVED": (
        Received(is_last=False, runs=make_runs((1, 1))),
        "00000000 010000000000000001000000",
    ),
    "FAILED": (Failed("no room"), "6e6f20726f6f6d"),
}


def data_of(record: Record) -> bytes:
    return b"".join(record.data) if isinstance(record, Pages | State | Verify) else b""


def fields(record: Record) -> dict[str, object]:
    """Comparable, arrays and buffers too."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, PageRuns):
            value = [one.tolist() for one in value]
        found[field.name] = b"".join(value) if field.name == "data" else value
    return found


def parse(kind: RecordType, table: bytes, data: bytes = b"") -> Record:
    return parse_record(kind, memoryview(table), memoryview(data))


def test_every_type_of_record_has_golden_bytes_a_limit_and_one_direction() -> None:
    assert set(GOLDEN) == {kind.name for kind in RecordType}
    assert set(LIMITS) == set(RecordType)
    assert set(RecordType) == FORWARD | BACKWARD
    assert not FORWARD & BACKWARD


@pytest.mark.parametrize("name", list(GOLDEN))
def test_a_record_is_written_as_the_layout_says_and_read_again(name: str) -> None:
    record, table = GOLDEN[name]
    assert pack_table(record).hex() == table.replace(" ", "")
    again = parse(RecordType[name], bytes.fromhex(table), data_of(record))
    assert type(again) is type(record)
    assert fields(again) == fields(record)


@pytest.mark.parametrize("name", list(GOLDEN))
def test_every_record_of_the_list_is_within_its_limit(name: str) -> None:
    record, _ = GOLDEN[name]
    limit = LIMITS[RecordType[name]]
    assert limit.table_min <= len(pack_table(record)) <= limit.table_max
    assert len(data_of(record)) <= limit.data_max


def table_of_runs(*runs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<QI", *run) for run in runs)


WRONG: dict[str, tuple[RecordType, bytes, bytes]] = {
    "pages of another size": (RecordType.BEGIN, struct.pack("<IIQQQQ", 65536, 0, 9, 0, 1, 1), b""),
    "an unknown flag": (RecordType.BEGIN, struct.pack("<IIQQQQ", 4096, 4, 9, 0, 1, 1), b""),
    "half a region": (RecordType.BEGIN, struct.pack("<IIQQQQQ", 4096, 0, 9, 0, 1, 1, 1), b""),
    "a run of nothing": (RecordType.HOLES, table_of_runs((3, 0)), b""),
    "a page beyond all addresses": (RecordType.HOLES, table_of_runs((1 << 51, 1)), b""),
    "a page number of 64 bits": (RecordType.HOLES, table_of_runs(((1 << 64) - 1, 2)), b""),
    "runs that overlap": (RecordType.HOLES, table_of_runs((3, 2), (4, 1)), b""),
    "a run twice": (RecordType.HOLES, table_of_runs((3, 1), (3, 1)), b""),
    "runs that descend": (RecordType.HOLES, table_of_runs((9, 1), (3, 1)), b""),
    "half a run": (RecordType.HOLES, table_of_runs((3, 1))[:-1], b""),
    "a page without data": (RecordType.PAGES, table_of_runs((3, 1)), b""),
    "less than its pages": (RecordType.PAGES, table_of_runs((3, 2)), page(1)),
    "more than its pages": (RecordType.PAGES, table_of_runs((3, 1)), page(1) + b"!"),
    "a checksum too few": (RecordType.VERIFY, table_of_runs((3, 2)), b"\1\2\3\4"),
    "a checksum too many": (RecordType.VERIFY, table_of_runs((3, 1)), bytes(8)),
    "a state of nobody": (RecordType.STATE, struct.pack("<III", 9, 0, 1), b"x"),
    "a part too many": (RecordType.STATE, struct.pack("<III", 1, 2, 2), b"x"),
    "no parts": (RecordType.STATE, struct.pack("<III", 1, 0, 0), b"x"),
    "a wanted page beyond all addresses": (RecordType.WANTED, struct.pack("<Q", 1 << 51), b""),
    "a pause that is 2": (RecordType.GO, struct.pack("<I", 2), b""),
    "a last one that is 2": (RecordType.RECEIVED, struct.pack("<I", 2), b""),
    "a reason that is no text": (RecordType.FAILED, b"\xff", b""),
    "a reason of two lines": (RecordType.FAILED, b"one\ntwo", b""),
    "a reason that clears a terminal": (RecordType.FAILED, b"\x1b[2J", b""),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_what_is_no_record_is_refused(name: str) -> None:
    with pytest.raises(WireError):
        parse(*WRONG[name])


def test_runs_that_touch_are_taken_since_regions_may() -> None:
    record = parse(RecordType.HOLES, table_of_runs((3, 1), (4, 1)))
    assert fields(record) == {"runs": [[3, 4], [1, 1]]}


def test_a_run_too_long_for_its_field_is_not_written_as_a_short_one() -> None:
    with pytest.raises(UsageError):
        pack_table(Holes(make_runs((0, 1 << 32))))


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("two\nlines", "two lines"),
        ("", "no reason was given"),
        ("ä" * 1000, "ä" * 500),
        ("x" + "ä" * 1000, "x" + "ä" * 499),
        ("a \x1b[2J path \udcff", "a ?[2J path ?"),
    ],
)
def test_a_reason_is_sent_as_one_line_that_fits(reason: str, line: str) -> None:
    table = pack_table(Failed(reason))
    assert len(table) <= LIMITS[RecordType.FAILED].table_max
    assert parse(RecordType.FAILED, table) == Failed(line)


def test_a_full_table_of_pages_is_read_without_a_loop_over_them() -> None:
    firsts = np.arange(0, 512, 2)
    table = pack_table(Pages(PageRuns(firsts, np.ones(256, np.int64)), ()))
    record = parse(RecordType.PAGES, table, bytes(1 << 20))
    assert fields(record)["runs"] == [firsts.tolist(), [1] * 256]
