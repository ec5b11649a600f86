"""Statistics buffers."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from ballonet.virtio.hint_ids import CMD_ID_MAX, CMD_ID_MIN, next_cmd_id
from ballonet.virtio.stats import STATS, STATS_BYTES_MAX, UNSET, parse_stats

entry = st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**64 - 1))


def test_the_table_is_indexed_by_tag_and_names_nothing_twice() -> None:
    count = len(STATS)
    assert [row.tag for row in STATS] == list(range(count))
    assert len({row.name for row in STATS}) == len({row.qemu_key for row in STATS}) == count >= 16


def test_linux_6_1_entries_are_read_and_what_was_not_sent_is_unset() -> None:
    raw = struct.pack("<HQHQ", 4, 485_900_288, 5, 505_262_080)
    sample = parse_stats(raw)
    assert sample.values == {"memfree": 485_900_288, "memtot": 505_262_080}
    assert sample.value("avail") == UNSET == 2**64 - 1


@given(st.lists(entry, max_size=40), st.binary(max_size=9))
def test_unknown_tags_are_kept_apart_and_a_part_of_an_entry_is_ignored(
    entries: list[tuple[int, int]], rest: bytes
) -> None:
    raw = b"".join(struct.pack("<HQ", tag, val) for tag, val in entries) + rest
    sample = parse_stats(raw)
    last = dict(entries)
    assert sample.values == {STATS[tag].name: val for tag, val in last.items() if tag < 16}
    assert sample.unknown == {tag: val for tag, val in last.items() if tag >= 16}


def test_a_huge_buffer_is_read_only_up_to_its_cap() -> None:
    raw = b"".join(struct.pack("<HQ", tag, 1) for tag in range(60_000))
    sample = parse_stats(raw)
    assert len(sample.values) + len(sample.unknown) == STATS_BYTES_MAX // 10


def test_hint_ids_wrap_to_the_lowest_round() -> None:
    assert next_cmd_id(CMD_ID_MIN) == 0x8000_0001
    assert next_cmd_id(CMD_ID_MAX) == CMD_ID_MIN
