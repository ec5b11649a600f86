"""The verdict on each page of a call, against pages that come one after the other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ballonet.memory.regions import Region, RegionTable
from ballonet.vmware.calls import Pfns, Status
from ballonet.vmware.lock_policy import RefusedPages
from ballonet.vmware.locked_pages import LockedPages
from ballonet.vmware.verdicts import verdicts_on_lock, verdicts_on_unlock

MIB = 1 << 20
TABLE = RegionTable([Region(0, 6 * MIB, 1 << 40, 0), Region(8 * MIB, 4 * MIB, 1 << 41, 0)])
PFNS = st.one_of(
    st.integers(0, 12),
    st.integers(1020, 1030),
    st.integers(1530, 1540),
    st.sampled_from([0, 512, 1024, 1536, 2048, 2560, 3072, 2**52 - 1]),
)
BLOCKS = st.sampled_from([0, 512, 1024, 1536, 2048, 2560, 3072, 7, 2**52 - 512])


def is_memory(pfn: int) -> bool:
    return pfn < 1536 or 2048 <= pfn < 3072


def setup(
    small: list[int], blocks: list[int], refused: list[int]
) -> tuple[LockedPages, RefusedPages, set[int], set[int]]:
    """The same pages locked, for the code and for the oracle."""
    locked, policy = LockedPages(TABLE), RefusedPages()
    for head in {head for head in blocks if head % 512 == 0 and is_memory(head)}:
        locked.lock(np.array([head], np.uint64), 512)
    in_blocks = {head + i for head in locked.pfns[::512].tolist() for i in range(512)}
    singles = {pfn for pfn in small if is_memory(pfn)} - in_blocks
    locked.lock(np.array(sorted(singles), np.uint64), 1)
    policy.refuse_lock(refused, Status.BUSY)
    policy.refuse_unlock(refused, Status.BUSY)
    return locked, policy, singles, set(locked.pfns.tolist()) - singles


def one_lock(pages: set[int], gone: set[int], refused: set[int], *, room: int) -> Status:
    if not all(map(is_memory, pages)) or min(pages) % len(pages):
        return Status.PPN_INVALID
    if pages & gone:
        return Status.PPN_LOCKED
    if pages & refused:
        return Status.BUSY
    return Status.SUCCESS if room > 0 else Status.PPN_NOTNEEDED


def as_pages(heads: list[int]) -> Pfns:
    return np.array(heads, np.uint64)


@given(
    st.lists(PFNS, max_size=20),
    st.lists(PFNS, max_size=8),
    st.lists(BLOCKS, max_size=2),
    st.lists(PFNS, max_size=5),
    st.integers(-5, 25),
    st.sampled_from([1, 512]),
)
def test_locks_are_judged_as_if_they_came_one_by_one(
    heads: list[int], small: list[int], blocks: list[int], refused: list[int], room: int, pages: int
) -> None:
    locked, policy, singles, in_blocks = setup(small, blocks, refused)
    room_pages = room * pages - (pages // 3)
    got = verdicts_on_lock(locked, policy, as_pages(heads), pages, room_pages).tolist()
    gone, expected = singles | in_blocks, []
    for head in heads:
        wanted = set(range(head, head + pages))
        verdict = one_lock(wanted, gone, set(refused), room=room_pages)
        if verdict is Status.SUCCESS:
            gone |= wanted
            room_pages -= pages
        expected.append(verdict)
    assert got == expected


@given(
    st.lists(st.one_of(PFNS, BLOCKS), max_size=20),
    st.lists(PFNS, max_size=8),
    st.lists(BLOCKS, max_size=3),
    st.lists(PFNS, max_size=5),
    st.sampled_from([1, 512]),
)
def test_unlocks_are_judged_as_if_they_came_one_by_one(
    heads: list[int], small: list[int], blocks: list[int], refused: list[int], pages: int
) -> None:
    locked, policy, singles, in_blocks = setup(small, blocks, refused)
    held = singles if pages == 1 else {pfn for pfn in in_blocks if pfn % 512 == 0}
    got = verdicts_on_unlock(locked, policy, as_pages(heads), pages).tolist()
    expected = []
    for head in heads:
        wanted = set(range(head, head + pages))
        if not all(map(is_memory, wanted)) or head % pages:
            expected.append(Status.PPN_INVALID)
        elif head not in held:
            expected.append(Status.PPN_UNLOCKED)
        elif wanted & set(refused):
            expected.append(Status.BUSY)
        else:
            held = held - {head}
            expected.append(Status.SUCCESS)
    assert got == expected
