"""What is put off is dropped later: all of it, once, and nothing that was taken back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.support.clock import FakeClock

from ballonet.device import deferral as module_under_test
from ballonet.device.deferral import AGE_NS_MAX, QUIET_NS, STEP_BYTES, Deferral
from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import Ranges, locate

PAGE = 4096
TABLE = RegionTable(
    [
        Region(0, 300 * PAGE, 1 << 40, 0),
        Region(1 << 30, 400 * PAGE, 2 << 40, 3 * 16384, 16384),
        Region((1 << 31) + PAGE, 101 * PAGE, 3 << 40, 2 * PAGE, 16384),
    ]
)
PFNS = st.lists(
    st.one_of(
        st.integers(0, 310),
        st.integers((1 << 18) - 2, (1 << 18) + 410),
        st.integers(1 << 19, (1 << 19) + 110),
    ),
    max_size=120,
)
STEP: st.SearchStrategy[tuple[str, list[int]]] = st.one_of(
    st.tuples(st.just("give"), PFNS),
    st.tuples(st.just("take"), PFNS),
    st.tuples(st.just("step"), st.just([])),
)


def bytes_of(ranges: Ranges) -> set[tuple[int, int]]:
    """Region and 4 KiB place in it, of everything in ranges."""
    found = set()
    for offset, length in zip(ranges.offsets.tolist(), ranges.lengths.tolist(), strict=True):
        found |= {(ranges.region, at) for at in range(offset, offset + length, PAGE)}
    return found


def give(deferral: Deferral, pfns: NDArray[np.uint32], table: RegionTable) -> None:
    """One message, sorted at once."""
    deferral.put(pfns, table)
    unsorted = deferral.pull()
    assert unsorted is not None
    deferral.give(locate(unsorted, table).ranges)


def places(pfns: list[int]) -> set[tuple[int, int]]:
    """Where balloon pages lie, as far as they lie in memory."""
    found = set()
    for pfn in pfns:
        for index, region in enumerate(TABLE.regions):
            offset = pfn * PAGE - region.gpa
            if 0 <= offset < region.size:
                found.add((index, offset))
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=30))
def test_what_is_dropped_was_given_and_not_taken_back(
    steps: list[tuple[str, list[int]]],
) -> None:
    deferral = Deferral(FakeClock())
    waits: set[tuple[int, int]] = set()
    for verb, pfns in steps:
        array = np.array(pfns, np.uint32)
        if verb == "give":
            give(deferral, array, TABLE)
            for one in locate(array, TABLE).ranges:
                waits |= bytes_of(one)
        elif verb == "take":
            deferral.take(array)
            for index, at in places(pfns):
                page, base = TABLE.regions[index].page_bytes, TABLE.regions[index].file_offset
                start = (at + base) // page * page - base
                waits -= {(index, start + part) for part in range(0, page, PAGE)}
        else:
            found = deferral.step()
            if found is not None:
                assert bytes_of(found) <= waits
                assert found.total_bytes <= STEP_BYTES
                waits -= bytes_of(found)
        assert deferral.waiting_bytes == len(waits) * PAGE
    dropped: set[tuple[int, int]] = set()
    for found in deferral.drain():
        assert not bytes_of(found) & dropped
        dropped |= bytes_of(found)
    assert dropped == waits
    assert deferral.deadline_ns is None


def test_it_waits_for_a_pause_but_not_for_ever() -> None:
    clock = FakeClock()
    deferral = Deferral(clock)
    for i in range(2000):
        give(deferral, np.array([i % 300], np.uint32), TABLE)
        if deferral.is_due:
            assert clock.now_ns() >= AGE_NS_MAX
            break
        clock.advance_ns(QUIET_NS * 9 // 10)
    else:
        raise AssertionError("it waits for ever")
    assert deferral.step() is not None
    assert not deferral.waiting_bytes
    assert not deferral.is_due
    deferral.cancel()
    give(deferral, np.array([5], np.uint32), TABLE)
    assert not deferral.is_due
    clock.advance_ns(QUIET_NS)
    assert deferral.is_due


def test_too_much_does_not_wait_and_then_nothing_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test, "WAITING_BYTES_MAX", 4 * PAGE)
    monkeypatch.setattr(module_under_test, "STEP_BYTES", PAGE)
    deferral = Deferral(FakeClock())
    give(deferral, np.arange(3, dtype=np.uint32), TABLE)
    assert not deferral.is_due
    give(deferral, np.arange(5, dtype=np.uint32), TABLE)
    for _ in range(5):
        assert deferral.is_due
        assert deferral.step() is not None
    assert not deferral.is_due


def test_neighbours_of_many_messages_become_one_range() -> None:
    deferral = Deferral(FakeClock())
    for i in range(0, 300, 3):
        give(deferral, np.array([i + 2, i, i + 1], np.uint32), TABLE)
    (ranges,) = deferral.drain()
    assert ranges.offsets.tolist() == [0]
    assert ranges.lengths.tolist() == [300 * PAGE]


def test_other_memory_forgets_what_waited() -> None:
    deferral = Deferral(FakeClock())
    give(deferral, np.array([1, 2], np.uint32), TABLE)
    other = RegionTable([Region(0, 64 * PAGE, 1 << 40, 0)])
    give(deferral, np.array([9], np.uint32), other)
    assert deferral.waiting_bytes == PAGE


def test_what_goes_on_is_cut_at_the_borders_of_huge_pages() -> None:
    size, file_offset = 9 * STEP_BYTES + 7 * PAGE, 2 * STEP_BYTES + 5 * PAGE
    table = RegionTable([Region(0, size, 1 << 40, file_offset)])
    deferral = Deferral(FakeClock())
    pfns = np.setdiff1d(np.arange(size // PAGE), np.arange(100, 700, 2)).astype(np.uint32)
    give(deferral, pfns, table)
    given = set(pfns.tolist())
    ends = []
    for found in deferral.drain():
        end = int(found.offsets[-1] + found.lengths[-1])
        if end // PAGE in given:
            ends.append((file_offset + end) % STEP_BYTES)
    assert ends == [0] * 8


def test_in_a_hurry_it_does_not_wait_for_a_pause() -> None:
    deferral = Deferral(FakeClock())
    deferral.hurry()
    assert not deferral.is_due
    give(deferral, np.arange(5, dtype=np.uint32), TABLE)
    assert not deferral.is_due
    deferral.hurry()
    assert deferral.is_due
    assert deferral.step() is not None
    assert not deferral.is_due


def test_a_guest_that_takes_pages_back_has_not_paused() -> None:
    clock = FakeClock()
    deferral = Deferral(clock)
    give(deferral, np.arange(5, dtype=np.uint32), TABLE)
    clock.advance_ns(QUIET_NS - 1)
    deferral.take(np.array([4], np.uint32))
    clock.advance_ns(QUIET_NS - 1)
    assert not deferral.is_due
    clock.advance_ns(1)
    assert deferral.is_due
