"""A statistics buffer, with what its bytes mean beside them."""

from __future__ import annotations

from ballonet.lab.stats_dump import ENTRY_BYTES, DumpedEntry, as_dump, read_entries

RAW = bytes.fromhex(
    "0500 0000001000000000 0300 0302010000000000 6300 0100000000000000".replace(" ", "")
)


def test_an_entry_is_ten_bytes_little_endian() -> None:
    assert ENTRY_BYTES == 10
    assert read_entries(RAW) == [
        DumpedEntry(0, 5, 256 << 20),
        DumpedEntry(10, 3, 0x010203),
        DumpedEntry(20, 99, 1),
    ]


def test_a_part_of_an_entry_at_the_end_is_none() -> None:
    assert read_entries(RAW[:19]) == read_entries(RAW[:10])
    assert read_entries(b"\x05") == []


def test_the_dump_has_bytes_and_words() -> None:
    assert as_dump(RAW, read_entries(RAW)).splitlines() == [
        "  0  05 00 | 00 00 00 10 00 00 00 00  tag  5, memtot: 268,435,456",
        " 10  03 00 | 03 02 01 00 00 00 00 00  tag  3, minflt: 66,051",
        " 20  63 00 | 01 00 00 00 00 00 00 00  tag 99, 99: 1",
    ]
