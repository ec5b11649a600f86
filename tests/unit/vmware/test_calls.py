"""The words and the layout of VMware's calls."""

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ballonet.vmware.calls import (
    ALL_CAPABILITIES,
    BATCH_ENTRIES_MAX,
    BATCH_ENTRY_BYTES,
    CAPABILITY_NAMES,
    COMMAND_NAMES,
    NO_CAPABILITIES,
    Capability,
    Command,
    Status,
    capability_names,
    entries_of,
    page_pfns,
    pfns_of,
    statuses_of,
    with_statuses,
)

pfn = st.integers(0, 2**52 - 1)


def test_the_numbers_are_those_of_linux() -> None:
    assert [int(one) for one in Command] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert [int(one) for one in Status] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0x0300_0000]
    assert int(ALL_CAPABILITIES) == 0b111110


def test_every_command_and_capability_has_a_word() -> None:
    assert set(COMMAND_NAMES) == set(Command)
    assert set(CAPABILITY_NAMES) == set(Capability)
    assert len(set(COMMAND_NAMES.values())) == len(Command)
    assert capability_names(Capability.BASIC | Capability.DOORBELL) == ("basic", "doorbell")
    assert capability_names(NO_CAPABILITIES) == ()


def test_a_batch_fills_a_page() -> None:
    assert BATCH_ENTRIES_MAX * BATCH_ENTRY_BYTES == 4096


def test_an_entry_is_a_page_number_above_twelve_bits() -> None:
    assert entries_of(np.array([0x1234, 1])) == struct.pack("<2Q", 0x1234000, 0x1000)
    assert with_statuses(np.array([0x1234], np.uint64), np.array([5], np.uint8)) == struct.pack(
        "<Q", 0x1234005
    )


@given(st.lists(pfn), st.integers(0, 0xFFF))
def test_page_numbers_are_read_whatever_else_stands_in_an_entry(pfns: list[int], rest: int) -> None:
    raw = struct.pack(f"<{len(pfns)}Q", *((one << 12) | rest for one in pfns))
    assert pfns_of(raw).tolist() == pfns
    assert statuses_of(raw).tolist() == [rest & 31] * len(pfns)


@given(st.lists(st.tuples(pfn, st.integers(0, 31))))
def test_what_the_host_writes_can_be_read(entries: list[tuple[int, int]]) -> None:
    pfns = np.array([one for one, _ in entries], np.uint64)
    statuses = np.array([status for _, status in entries], np.uint8)
    raw = with_statuses(pfns, statuses)
    assert pfns_of(raw).tolist() == pfns.tolist()
    assert statuses_of(raw).tolist() == statuses.tolist()


def test_a_block_is_512_pages() -> None:
    heads = np.array([1024, 0], np.uint64)
    assert page_pfns(heads, 512).tolist() == [*range(1024, 1536), *range(512)]
    assert page_pfns(heads, 1).tolist() == [1024, 0]
