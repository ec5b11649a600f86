"""What waits is dropped later: all of it, once, nothing that may be back, and never half a page.

The oracle keeps sets of balloon pages and looks at every host page by itself.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ballonet.balloon import page_ledger as module_under_test
from ballonet.balloon.page_ledger import AGE_NS_MAX, QUIET_NS, PageLedger
from ballonet.balloon.region_pages import BLOCK_BYTES
from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import Ranges

PAGE = 4096
#: Small pages; big ones, the first of them cut; big ones; and two regions that begin in the middle
#: of a balloon page, of which only what one message gives whole can go.  In the last of them a
#: balloon page may lie in two host pages.
TABLE = RegionTable(
    [
        Region(0, 300 * PAGE, 1 << 40, 0),
        Region(0x200_0000, 140 * PAGE, 2 << 40, 3 * PAGE, 0x10000),
        Region(0x400_0000, 64 * PAGE, 3 << 40, 0, 0x8000),
        Region(0x600_0200, 40 * PAGE, 4 << 40, 0x200, 0x10000),
        Region(0x800_0200, 80 * PAGE, 5 << 40, 0, 0x10000),
    ]
)
CROOKED = (3, 4)
PFNS = st.lists(
    st.one_of(
        st.integers(0, 310),
        st.integers(0x1FFE, 0x2000 + 150),
        st.integers(0x4000, 0x4000 + 70),
        st.integers(0x6000, 0x6000 + 45),
        st.integers(0x8000, 0x8000 + 85),
    ),
    max_size=60,
)
RUN = st.builds(
    lambda first, count: list(range(first, first + count)),
    st.sampled_from([0, 290, 0x2000, 0x2005, 0x2020, 0x4000, 0x4010, 0x6000, 0x8010, 0x8020]),
    st.integers(1, 48),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["give", "give", "take", "hold"]), st.one_of(PFNS, RUN, RUN)),
        st.tuples(st.sampled_from(["step", "step", "take all"]), st.just([])),
    ),
    max_size=40,
)


def host_pages() -> dict[tuple[int, int], set[int]]:
    """Region and offset of every whole host page, and the balloon pages that it consists of."""
    found = {}
    for index, region in enumerate(TABLE.regions):
        page, first = region.page_bytes, -region.file_offset % region.page_bytes
        for offset in range(first, region.size - page + 1, page):
            first, end = region.gpa + offset, region.gpa + offset + page
            parts = set(range(first // PAGE, -(-end // PAGE)))
            if region.gpa <= min(parts) * PAGE and max(parts) * PAGE < region.gpa + region.size:
                found[index, offset] = parts
    return found


HOST_PAGES = host_pages()


def pages_of(ranges: Ranges) -> set[tuple[int, int]]:
    """Region and offset of each host page in ranges."""
    page = TABLE.regions[ranges.region].page_bytes
    found = set()
    for offset, length in zip(ranges.offsets.tolist(), ranges.lengths.tolist(), strict=True):
        assert length % page == 0
        found |= {(ranges.region, at) for at in range(offset, offset + length, page)}
    return found


def message(pfns: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array(pfns, np.uint32)


class Expected:
    """What is held and what waits, worked out page by page."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.waiting: set[tuple[int, int]] = set()

    def give(self, pfns: list[int]) -> set[tuple[int, int]]:
        self.held |= set(pfns)
        return {
            (region, offset)
            for (region, offset), parts in HOST_PAGES.items()
            if parts & set(pfns) and parts <= (set(pfns) if region in CROOKED else self.held)
        }

    def take(self, pfns: list[int]) -> None:
        self.held -= set(pfns)
        self.waiting -= {place for place in self.waiting if HOST_PAGES[place] & set(pfns)}


@settings(max_examples=400, deadline=None)
@given(STEPS)
def test_exactly_the_whole_host_pages_that_were_given_and_not_taken_back_go(
    steps: list[tuple[str, list[int]]],
) -> None:
    ledger, expected = PageLedger(), Expected()
    for verb, pfns in steps:
        if verb == "give":
            ledger.enqueue_message(message(pfns), TABLE, 0)
            ledger.sort()
            expected.waiting |= expected.give(pfns)
        elif verb == "hold":
            now = {at for ranges in ledger.hold(message(pfns), TABLE)[0] for at in pages_of(ranges)}
            assert now == expected.give(pfns)
        elif verb == "take":
            ledger.take_back(message(pfns), 0)
            expected.take(pfns)
        elif verb == "take all":
            ledger.take_back_all()
            expected = Expected()
        else:
            found = ledger.step()
            if found is not None:
                assert pages_of(found) <= expected.waiting
                assert found.total_bytes <= BLOCK_BYTES
                expected.waiting -= pages_of(found)
        sizes = [TABLE.regions[index].page_bytes for index, _ in expected.waiting]
        assert ledger.waiting_bytes == sum(sizes)
    dropped: set[tuple[int, int]] = set()
    while (found := ledger.step()) is not None:
        assert not pages_of(found) & dropped
        dropped |= pages_of(found)
    assert dropped == expected.waiting
    assert ledger.deadline_ns is None


def test_messages_that_were_not_sorted_yet_are_held_like_all_others() -> None:
    together, apart = PageLedger(), PageLedger()
    for first in range(0x2000, 0x2000 + 140, 5):
        pfns = message(list(range(first, first + 5)))
        together.enqueue_message(pfns, TABLE, 0)
        apart.enqueue_message(pfns, TABLE, 0)
        apart.sort()
    together.sort()
    assert together.waiting_bytes == apart.waiting_bytes > 0


def test_part_of_a_big_page_that_was_taken_back_keeps_it_until_it_is_given_again() -> None:
    ledger = PageLedger()
    page_a, page_b = message(list(range(0x4000, 0x4004))), message(list(range(0x4004, 0x4008)))
    ledger.enqueue_message(page_a, TABLE, 0)
    ledger.sort()
    ledger.take_back(page_a, 0)
    ledger.enqueue_message(page_b, TABLE, 0)
    ledger.sort()
    assert ledger.step() is None
    ledger.enqueue_message(page_a, TABLE, 0)
    ledger.sort()
    found = ledger.step()
    assert found is not None
    assert found.total_bytes == 0x8000


def test_it_waits_for_a_pause() -> None:
    ledger = PageLedger()
    ledger.enqueue_message(message([1, 2]), TABLE, now_ns=10)
    assert not ledger.is_due(10 + QUIET_NS - 1)
    assert ledger.is_due(10 + QUIET_NS)
    assert not ledger.is_overdue(10 + QUIET_NS)
    assert ledger.deadline_ns == 10 + QUIET_NS


def test_a_guest_that_takes_pages_back_has_not_paused() -> None:
    ledger = PageLedger()
    ledger.enqueue_message(message([1, 2]), TABLE, now_ns=0)
    ledger.sort()
    ledger.take_back(message([2]), QUIET_NS // 4)
    assert not ledger.is_due(QUIET_NS // 4 + QUIET_NS - 1)
    assert ledger.is_due(QUIET_NS // 4 + QUIET_NS)


@pytest.mark.parametrize("pace_ns", [QUIET_NS // 5, QUIET_NS, 7 * QUIET_NS, 20 * QUIET_NS])
def test_a_pause_is_one_by_the_guest_s_own_pace(pace_ns: int) -> None:
    ledger = PageLedger()
    for number in range(30):
        ledger.enqueue_message(message([number]), TABLE, number * pace_ns)
        assert number == 0 or not ledger.is_due((number + 1) * pace_ns - 1)
    pause_ns = max(QUIET_NS, 3 * pace_ns)
    assert not ledger.is_due(29 * pace_ns + pause_ns - 1)
    assert ledger.is_due(29 * pace_ns + pause_ns)


def test_a_silence_of_long_ago_is_no_pace() -> None:
    ledger = PageLedger()
    for number in range(200):
        gap_ns = 40 * QUIET_NS if number > 1 else 0
        ledger.enqueue_message(message([number]), TABLE, gap_ns + number * QUIET_NS // 10)
    last_ns = 40 * QUIET_NS + 199 * QUIET_NS // 10
    assert ledger.is_due(last_ns + QUIET_NS)


def test_a_guest_that_never_pauses_keeps_no_page_waiting_for_longer_than_the_limit() -> None:
    ledger, waiting_since, worst_ns = PageLedger(), dict[int, int](), 0
    interval_ns = QUIET_NS * 9 // 10
    for i in range(4000):
        now_ns = i * interval_ns
        pfn = i * 7 % 300
        ledger.enqueue_message(message([pfn]), TABLE, now_ns)
        waiting_since.setdefault(pfn, now_ns)
        if ledger.is_overdue(now_ns):  # one step between two messages
            ledger.sort()
            found = ledger.step()
            assert found is not None
            for _, offset in pages_of(found):
                worst_ns = max(worst_ns, now_ns - waiting_since.pop(offset // PAGE))
    assert AGE_NS_MAX <= worst_ns <= AGE_NS_MAX + 300 * interval_ns


def test_pages_given_while_others_are_dropped_do_not_get_in_front_of_them() -> None:
    ledger = PageLedger()
    ledger.enqueue_message(message(list(range(100, 300, 2))), TABLE, 0)
    ledger.sort()
    dropped: list[int] = []
    lower = list(range(0, 100, 2))
    while (found := ledger.step()) is not None:
        dropped += sorted(offset // PAGE for _, offset in pages_of(found))
        if lower:
            ledger.enqueue_message(message(lower), TABLE, 0)
            ledger.sort()
            lower = []
    assert dropped == [*range(100, 300, 2), *range(0, 100, 2)]


def test_a_ledger_that_is_full_must_be_emptied_before_it_takes_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module_under_test, "WAITING_BYTES_MAX", 4 * PAGE)
    ledger = PageLedger()
    ledger.enqueue_message(message([1, 3, 5]), TABLE, 0)
    assert not ledger.is_full
    assert not ledger.is_overdue(0)
    ledger.enqueue_message(message([7, 9]), TABLE, 0)
    assert ledger.is_full
    assert ledger.is_overdue(0)
    ledger.sort()
    assert ledger.is_full
    assert ledger.step() is not None
    assert not ledger.is_full
    assert not ledger.is_overdue(0)


def test_neighbours_of_many_messages_become_one_range() -> None:
    ledger = PageLedger()
    for i in range(0, 300, 3):
        ledger.enqueue_message(message([i + 2, i, i + 1]), TABLE, 0)
    ledger.sort()
    ranges = ledger.step()
    assert ranges is not None
    assert ranges.offsets.tolist() == [0]
    assert ranges.lengths.tolist() == [300 * PAGE]


def test_other_memory_takes_everything_back() -> None:
    ledger = PageLedger()
    ledger.enqueue_message(message([1, 2]), TABLE, 0)
    other = RegionTable([Region(0, 64 * PAGE, 1 << 40, 0)])
    ledger.enqueue_message(message([9]), other, 0)
    ledger.sort()
    assert ledger.waiting_bytes == PAGE


def test_what_goes_on_is_cut_at_the_borders_of_huge_pages() -> None:
    size, file_offset = 9 * BLOCK_BYTES + 7 * PAGE, 2 * BLOCK_BYTES + 5 * PAGE
    table = RegionTable([Region(0, size, 1 << 40, file_offset)])
    ledger = PageLedger()
    pfns = np.setdiff1d(np.arange(size // PAGE), np.arange(100, 700, 2)).astype(np.uint32)
    ledger.enqueue_message(pfns, table, 0)
    ledger.sort()
    given, ends = set(pfns.tolist()), []
    while (found := ledger.step()) is not None:
        end = int(found.offsets[-1] + found.lengths[-1])
        if end // PAGE in given:
            ends.append((file_offset + end) % BLOCK_BYTES)
    assert ends == [0] * 8


def test_what_has_begun_to_be_dropped_can_be_taken_back() -> None:
    ledger = PageLedger()
    ledger.enqueue_message(message([*range(5), *range(0x4000, 0x4008)]), TABLE, 0)
    ledger.sort()
    begun = ledger.step()
    assert begun is not None
    assert (begun.region, begun.total_bytes, ledger.waiting_bytes) == (0, 5 * PAGE, 8 * PAGE)
    ledger.take_back(message([0x4003]), 1)
    assert ledger.waiting_bytes == 0
    assert ledger.step() is None


def test_expedited_it_does_not_wait_for_a_pause_until_nothing_waits() -> None:
    ledger = PageLedger()
    ledger.expedite()
    ledger.enqueue_message(message(list(range(5))), TABLE, 0)
    assert not ledger.is_due(0)
    ledger.expedite()
    assert ledger.is_due(0)
    assert ledger.is_overdue(0)
    ledger.sort()
    assert ledger.step() is not None
    assert not ledger.is_due(1 << 60)


def test_what_it_keeps_grows_with_what_waits_and_not_with_memory() -> None:
    tib = 1 << 40
    table = RegionTable(
        [Region(0, 12 * tib, 1 << 50, 0), Region(13 * tib, tib, 2 << 50, 0, 1 << 21)]
    )
    ledger = PageLedger()
    ledger.enqueue_message(message([0, 12 * tib // PAGE - 1]), table, 0)
    ledger.sort()
    found = ledger.step()
    assert found is not None
    assert found.offsets.tolist() == [0, 12 * tib - PAGE]
    ledger.enqueue_message(message(list(range(13 * tib // PAGE, 13 * tib // PAGE + 512))), table, 0)
    ledger.sort()
    found = ledger.step()
    assert found is not None
    assert (found.region, found.offsets.tolist(), found.total_bytes) == (1, [0], 1 << 21)


def test_a_page_that_lies_in_two_host_pages_takes_both_back() -> None:
    region = CROOKED[-1]
    places = sorted(place for place in HOST_PAGES if place[0] == region)
    first, second = places[:2]
    (shared,) = HOST_PAGES[first] & HOST_PAGES[second]
    ledger = PageLedger()
    given = sorted(HOST_PAGES[first] | HOST_PAGES[second])
    ledger.enqueue_message(message(given), TABLE, now_ns=0)
    ledger.sort()
    assert ledger.waiting_bytes == 2 * TABLE.regions[region].page_bytes
    ledger.take_back(message([shared]), now_ns=1)
    assert ledger.waiting_bytes == 0
    assert ledger.step() is None
