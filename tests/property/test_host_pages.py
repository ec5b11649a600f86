"""Big host pages given in parts: never one of which a part is the guest's, and every whole one."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ballonet.memory.host_pages import HostPageParts
from ballonet.memory.regions import Region, RegionTable

# Regions that begin and end inside host pages, one with small pages, one off the page borders.
TABLE = RegionTable(
    [
        Region(0x0, 0x23000, uva=0, file_offset=0x3000, page_bytes=0x10000),
        Region(0x40000, 0x20000, uva=1 << 40, file_offset=0, page_bytes=0x8000),
        Region(0x60000, 0x10000, uva=2 << 40, file_offset=0, page_bytes=4096),
        Region(0x80200, 0x10000, uva=3 << 40, file_offset=0x200, page_bytes=0x10000),
    ]
)
PFNS = 0x98

step = st.tuples(
    st.sampled_from(["give", "give", "give", "take"]),
    st.tuples(st.integers(0, PFNS), st.integers(1, 40), st.sets(st.integers(0, 39), max_size=4)),
)


def whole_host_pages() -> dict[tuple[int, int], set[int]]:
    """Region and offset of each host page wholly inside a region of big pages, and its parts."""
    found = {}
    for index, region in enumerate(TABLE.regions[:2]):
        for offset in range(
            -region.file_offset % region.page_bytes, region.size, region.page_bytes
        ):
            if offset + region.page_bytes <= region.size:
                first = (region.gpa + offset) >> 12
                found[index, offset] = set(range(first, first + (region.page_bytes >> 12)))
    return found


@settings(max_examples=400)
@given(st.lists(step, max_size=60))
def test_exactly_the_host_pages_whose_every_part_is_in_the_balloon_go(
    history: list[tuple[str, tuple[int, int, set[int]]]],
) -> None:
    parts = HostPageParts(TABLE)
    balloon: set[int] = set()
    for verb, (first, count, holes) in history:
        named = {first + i for i in range(count)} - {first + hole for hole in holes}
        pfns = np.array(sorted(named), np.uint64)
        if verb == "take":
            balloon -= named
            parts.take(pfns)
            continue
        balloon |= named
        gone = set()
        for ranges in parts.give(pfns):
            page = TABLE.regions[ranges.region].page_bytes
            for offset, length in zip(
                ranges.offsets.tolist(), ranges.lengths.tolist(), strict=True
            ):
                gone |= {(ranges.region, at) for at in range(offset, offset + length, page)}
        expected = {
            place
            for place, members in whole_host_pages().items()
            if members <= balloon and members & named
        }
        assert gone == expected


def test_the_history_that_lost_a_page_keeps_it() -> None:
    parts = HostPageParts(TABLE)
    page_a = np.arange(0x40, 0x44, dtype=np.uint64)
    page_b = np.arange(0x44, 0x48, dtype=np.uint64)
    assert parts.give(page_a) == []
    parts.take(page_a)
    assert parts.give(page_b) == []
    assert len(parts.give(page_a)) == 1


def test_small_and_crooked_regions_are_left_to_others() -> None:
    parts = HostPageParts(TABLE)
    assert [parts.covers(index) for index in range(4)] == [True, True, False, False]
