"""Page numbers to ranges, against a slow reference that looks at one page at a time."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import Ranges, find_pieces, locate, merge_messages, merge_pfns

PAGE = 4096
pfn = st.one_of(st.integers(0, 80), st.integers(0, 2**32 - 1))
pfns = st.lists(pfn, max_size=200)


@st.composite
def tables(draw: st.DrawFn) -> RegionTable:
    """Small regions with holes, on odd boundaries, with host pages of several sizes."""
    regions, gpa = [], 0
    for i in range(draw(st.integers(0, 4))):
        gpa += draw(st.sampled_from([0, 4096, 8192, 0x10000, 512, 1536]))
        size = draw(st.sampled_from([512, 4096, 3 * 4096, 0x10000, 0x23000, 0x11200]))
        page = draw(st.sampled_from([4096, 4096, 0x2000, 0x10000]))
        offset = draw(st.sampled_from([0, 4096, 0x10000, 0x3000]))
        regions.append(Region(gpa, size, uva=i << 40, file_offset=offset, page_bytes=page))
        gpa += size
    return RegionTable(regions)


def discarded_pages(table: RegionTable, ranges: tuple[Ranges, ...]) -> list[tuple[int, int]]:
    """Every 4 KiB of every range, as region and offset in the region."""
    pages = []
    for part in ranges:
        for offset, length in zip(part.offsets.tolist(), part.lengths.tolist(), strict=True):
            assert offset >= 0
            assert offset + length <= table.regions[part.region].size
            pages += [(part.region, at) for at in range(offset, offset + length, 4096)]
    return pages


def reference(given_pfns: list[int], table: RegionTable) -> tuple[list[tuple[int, int]], int]:
    """What may be dropped, one host page at a time; and how many pages lie in no region."""
    wanted, rejected = set(given_pfns), 0
    allowed = []
    for number in sorted(wanted):
        home = [
            r
            for r in table.regions
            if r.gpa <= number << 12 and (number + 1) << 12 <= r.gpa + r.size
        ]
        rejected += not home
    for index, region in enumerate(table.regions):
        first_page = region.file_offset // region.page_bytes
        last_page = (region.file_offset + region.size) // region.page_bytes
        for host_page in range(first_page, last_page + 1):
            start = host_page * region.page_bytes - region.file_offset
            gpas = range(region.gpa + start, region.gpa + start + region.page_bytes)
            inside = start >= 0 and start + region.page_bytes <= region.size
            covering = range(gpas.start >> 12, ((gpas.stop - 1) >> 12) + 1)
            if inside and all(
                number in wanted
                and region.gpa <= number << 12
                and (number + 1) << 12 <= region.gpa + region.size
                for number in covering
            ):
                allowed += [(index, at) for at in range(start, start + region.page_bytes, 4096)]
    return allowed, rejected


@given(pfns, tables())
def test_ranges_equal_the_page_by_page_reference(given_pfns: list[int], table: RegionTable) -> None:
    located = locate(np.array(given_pfns, np.uint32), table)
    pages, rejected = reference(given_pfns, table)
    assert discarded_pages(table, located.ranges) == pages
    assert located.rejected_pages == rejected
    assert located.accepted_pages == len(set(given_pfns)) - rejected


@given(pfns)
def test_merging_neither_loses_nor_invents_a_page(given_pfns: list[int]) -> None:
    runs = merge_pfns(np.array(given_pfns, np.uint32))
    pairs = list(zip(runs.first_pfns.tolist(), runs.pages.tolist(), strict=True))
    assert [p for first, n in pairs for p in range(first, first + n)] == sorted(set(given_pfns))
    assert all(first + n < following for (first, n), (following, _) in pairwise(pairs))


@given(pfns, tables(), st.integers(1, 5))
def test_slices_of_ranges_are_the_ranges(
    given_pfns: list[int], table: RegionTable, count: int
) -> None:
    for ranges in locate(np.array(given_pfns, np.uint32), table).ranges:
        parts = list(ranges.slices(count))
        assert all(0 < len(part.offsets) <= count for part in parts)
        assert np.concatenate([part.offsets for part in parts]).tolist() == ranges.offsets.tolist()
        assert sum(part.total_bytes for part in parts) == ranges.total_bytes


piece = st.tuples(st.integers(0, 0x60000), st.integers(1, 0x12000))


@given(st.lists(piece, max_size=12), tables())
def test_pieces_become_exactly_the_pages_wholly_inside_them_and_one_region(
    pieces: list[tuple[int, int]], table: RegionTable
) -> None:
    runs, rejected = find_pieces(pieces, table)
    expected: set[int] = set()
    outside = 0
    for gpa, length in pieces:
        if any(r.gpa <= gpa and gpa + length <= r.gpa + r.size for r in table.regions):
            expected |= {n for n in range(0x80) if gpa <= n << 12 and (n + 1) << 12 <= gpa + length}
        else:
            outside += 1
    found = [
        page
        for first, count in zip(runs.first_pfns.tolist(), runs.pages.tolist(), strict=True)
        for page in range(first, first + count)
    ]
    assert found == sorted(expected)
    assert rejected == outside
    ends = (runs.first_pfns + runs.pages).tolist()
    assert all(end < start for end, start in zip(ends, runs.first_pfns.tolist()[1:], strict=False))


@given(st.sets(st.integers(0, 40), min_size=1), st.integers(0, 9))
def test_blocks_of_which_a_part_is_dropped_are_counted(pages: set[int], lead_pages: int) -> None:
    block = 8
    table = RegionTable([Region(0, 64 * PAGE, 1 << 40, lead_pages * PAGE)])
    (ranges,) = locate(np.array(sorted(pages), np.uint32), table).ranges
    touched = {(page + lead_pages) // block for page in pages}
    whole = {
        one
        for one in touched
        if all(one * block + part - lead_pages in pages for part in range(block))
    }
    assert ranges.split_blocks(block * PAGE, lead_pages * PAGE) == len(touched - whole)


run_messages = st.integers(1, 6).flatmap(
    lambda size: st.lists(
        st.builds(
            lambda first, is_falling: [*range(first, first + size)][:: -1 if is_falling else 1],
            st.one_of(st.integers(0, 60), st.integers(2**32 - 70, 2**32 - 7)),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    )
)
any_messages = st.lists(st.lists(pfn, max_size=8), min_size=1, max_size=8)


@given(st.one_of(run_messages, any_messages))
def test_messages_of_runs_are_joined_as_all_their_page_numbers_are(
    messages: list[list[int]],
) -> None:
    found = merge_messages([np.array(one, np.uint32) for one in messages])
    wanted = merge_pfns(np.array([number for one in messages for number in one], np.uint32))
    assert found.first_pfns.tolist() == wanted.first_pfns.tolist()
    assert found.pages.tolist() == wanted.pages.tolist()
