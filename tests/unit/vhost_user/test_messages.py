"""vhost-user messages: layouts as QEMU's documentation has them, and what each may carry."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.errors import WireError
from ballonet.memory.regions import Region
from ballonet.vhost_user.messages import (
    FDS_MAX,
    PAYLOAD_MAX,
    RULES,
    ConfigAccess,
    LogArea,
    Message,
    Request,
    VringAddresses,
    VringFd,
    VringState,
    check_shape,
    pack_mem_table,
    pack_message,
    pack_request,
    parse_header,
    parse_mem_table,
    parse_single_region,
)

u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def test_a_request_is_its_number_version_1_and_the_size_of_what_follows() -> None:
    assert pack_request(8, b"12345678") == bytes.fromhex("080000000100000008000000") + b"12345678"
    assert pack_request(2, need_reply=True) == bytes.fromhex("020000000900000000000000")


def test_an_answer_repeats_the_number_and_sets_the_reply_bit_alone() -> None:
    assert pack_message(1, bytes(8), reply=True) == bytes.fromhex(
        "010000000500000008000000" + "00" * 8
    )
    assert pack_message(2, reply=False) == bytes.fromhex("020000000100000000000000")


@pytest.mark.parametrize("flags", [1, 9])
@pytest.mark.parametrize("size", [0, 8, PAYLOAD_MAX])
def test_a_header_of_version_1_is_taken_with_or_without_need_reply(flags: int, size: int) -> None:
    assert parse_header(struct.pack("=III", 5, flags, size)) == (5, flags, size)


@pytest.mark.parametrize("flags", [0, 2, 3, 5, 13, 0x11, 1 << 31 | 1, 0xFFFF_FFFF])
def test_a_header_with_any_other_flag_is_refused(flags: int) -> None:
    with pytest.raises(WireError, match="flags"):
        parse_header(struct.pack("=III", 5, flags, 0))


@pytest.mark.parametrize("size", [PAYLOAD_MAX + 1, 1 << 20, 0xFFFF_FFFF])
def test_a_payload_longer_than_any_message_is_refused_before_it_is_read(size: int) -> None:
    with pytest.raises(WireError, match="payload size"):
        parse_header(struct.pack("=III", 5, 1, size))


@pytest.mark.parametrize("code", list(RULES), ids=[Request(code).name for code in RULES])
def test_each_request_is_taken_at_its_limits_and_refused_beyond_them(code: int) -> None:
    rule = RULES[code]
    for size in (rule.payload_min, rule.payload_max):
        for fds in (rule.fds_min, rule.fds_max):
            assert check_shape(Message(code, 1, bytes(size), tuple(range(fds)))) is rule
    least = tuple(range(rule.fds_min))
    for size in {rule.payload_min - 1, rule.payload_max + 1} - {-1}:
        with pytest.raises(WireError, match="payload bytes"):
            check_shape(Message(code, 1, bytes(size), least))
    for count in {rule.fds_min - 1, rule.fds_max + 1} - {-1}:
        with pytest.raises(WireError, match="fds"):
            check_shape(Message(code, 1, bytes(rule.payload_min), tuple(range(count))))


def test_every_request_has_a_rule_and_none_more_descriptors_than_are_received() -> None:
    assert set(RULES) == set(Request)
    assert max(rule.fds_max for rule in RULES.values()) == FDS_MAX
    assert max(rule.payload_max for rule in RULES.values()) <= PAYLOAD_MAX


@pytest.mark.parametrize("code", [0, 19, 20, 35, 255, 0xFFFF_FFFF])
def test_a_request_nobody_knows_is_refused_by_its_number(code: int) -> None:
    with pytest.raises(WireError, match=f"got {code}"):
        check_shape(Message(code, 1))


@given(u32, u32)
def test_a_vring_state_reads_as_it_was_written(queue: int, num: int) -> None:
    state = VringState(queue, num)
    assert state.pack() == struct.pack("=II", queue, num)
    assert VringState.parse(state.pack()) == state


@given(u32, u32, u64, u64, u64, u64)
def test_vring_addresses_stand_in_the_order_of_the_message(
    queue: int, flags: int, desc: int, used: int, avail: int, log: int
) -> None:
    raw = struct.pack("=IIQQQQ", queue, flags, desc, used, avail, log)
    assert VringAddresses.parse(raw) == VringAddresses(queue, flags, desc, used, avail, log)
    assert VringAddresses.parse(raw).pack() == raw


@pytest.mark.parametrize(
    ("value", "fds", "queue"), [(0, (9,), 0), (3, (9,), 3), (0xFF, (9,), 255), (0x102, (), 2)]
)
def test_bit_8_of_a_vring_descriptor_says_that_none_comes(
    value: int, fds: tuple[int, ...], queue: int
) -> None:
    message = Message(Request.SET_VRING_CALL, 1, struct.pack("=Q", value), fds)
    assert VringFd.parse(message) == VringFd(queue, has_fd=bool(fds))


@pytest.mark.parametrize(("value", "fds"), [(0, ()), (0x100, (9,))])
def test_a_vring_descriptor_that_is_missing_or_too_many_is_refused(
    value: int, fds: tuple[int, ...]
) -> None:
    with pytest.raises(WireError):
        VringFd.parse(Message(Request.SET_VRING_CALL, 1, struct.pack("=Q", value), fds))


@given(u32, u32, st.binary(min_size=1, max_size=256))
def test_a_configuration_access_reads_as_it_was_written(
    offset: int, flags: int, data: bytes
) -> None:
    access = ConfigAccess(offset, flags, data)
    assert access.pack() == struct.pack("=III", offset, len(data), flags) + data
    assert ConfigAccess.parse(access.pack()) == access


@pytest.mark.parametrize("size", [0, 3, 5, 0xFFFF_FFFF])
def test_a_configuration_access_of_another_size_than_it_says_is_refused(size: int) -> None:
    with pytest.raises(WireError, match="config size"):
        ConfigAccess.parse(struct.pack("=III", 0, size, 0) + bytes(4))


@pytest.mark.parametrize("length", [0, 8, 15, 17])
def test_a_log_without_its_place_is_refused(length: int) -> None:
    with pytest.raises(WireError):
        LogArea.parse(bytes(length))


regions = st.lists(st.builds(Region, u64, u64, u64, u64), max_size=FDS_MAX)


@given(regions, st.integers(0, 2))
def test_a_memory_table_reads_as_it_was_written_whatever_room_is_behind_it(
    table: list[Region], room: int
) -> None:
    payload = pack_mem_table(table) + bytes(32 * room)
    message = Message(Request.SET_MEM_TABLE, 1, payload, tuple(range(len(table))))
    assert parse_mem_table(message) == table


@pytest.mark.parametrize(("count", "fds", "room"), [(1, 0, 1), (0, 1, 1), (2, 2, 1), (1, 2, 2)])
def test_a_memory_table_whose_parts_do_not_agree_is_refused(
    count: int, fds: int, room: int
) -> None:
    payload = struct.pack("=II", count, 0) + bytes(32 * room)
    with pytest.raises(WireError, match="must agree"):
        parse_mem_table(Message(Request.SET_MEM_TABLE, 1, payload, tuple(range(fds))))


@given(st.builds(Region, u64, u64, u64, u64))
def test_a_single_region_stands_behind_eight_bytes_of_padding(region: Region) -> None:
    payload = pack_mem_table([region])
    assert parse_single_region(Message(Request.ADD_MEM_REG, 1, payload, (3,))) == region
    assert payload[8:] == struct.pack(
        "=QQQQ", region.gpa, region.size, region.uva, region.file_offset
    )
