"""Sets of locked pages, of both sizes, in memory with holes."""

import numpy as np

from ballonet.memory.regions import Region, RegionTable
from ballonet.vmware.calls import Pfns
from ballonet.vmware.locked_pages import LockedPages

PAGE = 4096
MIB = 1 << 20


def regions(*parts: tuple[int, int]) -> RegionTable:
    """By first byte and size."""
    return RegionTable([Region(gpa, size, gpa + (1 << 40), 0) for gpa, size in parts])


def heads(*pfns: int) -> Pfns:
    return np.array(pfns, np.uint64)


def test_a_page_is_memory_if_it_lies_in_a_region() -> None:
    locked = LockedPages(regions((0, 2 * PAGE), (8 * PAGE, PAGE)))
    pfns = heads(0, 1, 2, 7, 8, 9, 2**52 - 1)
    assert locked.name_memory(pfns, 1).tolist() == [True, True, False, False, True, False, False]


def test_a_page_of_which_a_part_is_missing_is_none() -> None:
    locked = LockedPages(regions((100, 3 * PAGE)))
    assert locked.name_memory(heads(0, 1, 2, 3), 1).tolist() == [False, True, True, False]


def test_a_block_lies_wholly_in_memory_on_its_border() -> None:
    locked = LockedPages(regions((0, 4 * MIB), (6 * MIB, MIB), (7 * MIB, MIB)))
    found = locked.name_memory(heads(0, 1, 512, 1024, 1536, 2048), 512)
    assert found.tolist() == [True, False, True, False, True, False]  # two regions that touch


def test_a_block_with_a_hole_is_none() -> None:
    locked = LockedPages(regions((0, MIB), (MIB + PAGE, MIB - PAGE)))
    assert not locked.name_memory(heads(0), 512).any()


def test_what_is_locked_is_held_as_it_was_locked() -> None:
    locked = LockedPages(regions((0, 8 * MIB)))
    locked.lock(heads(3, 700), 1)
    locked.lock(heads(1024), 512)
    assert (locked.small, locked.blocks, locked.total_pages) == (2, 1, 514)
    assert locked.pfns.tolist() == [3, 700, *range(1024, 1536)]
    assert locked.hold(heads(3, 4, 1024), 1).tolist() == [True, False, False]
    assert locked.hold(heads(0, 512, 1024), 512).tolist() == [False, False, True]


def test_a_page_in_a_block_and_a_block_around_a_page_are_in_its_way() -> None:
    locked = LockedPages(regions((0, 8 * MIB)))
    locked.lock(heads(3), 1)
    locked.lock(heads(1024), 512)
    assert locked.overlap(heads(3, 4, 1023, 1024, 1535, 1536), 1).tolist() == [
        *(True, False, False, True, True, False)
    ]
    assert locked.overlap(heads(0, 512, 1024, 1536), 512).tolist() == [True, False, True, False]


def test_what_is_unlocked_is_the_guests() -> None:
    locked = LockedPages(regions((0, 8 * MIB)))
    locked.lock(heads(3, 4), 1)
    locked.lock(heads(1024), 512)
    locked.unlock(heads(3), 1)
    locked.unlock(heads(1024), 512)
    assert locked.pfns.tolist() == [4]
    assert locked.total_pages == 1


def test_regions_keep_their_pages_apart() -> None:
    locked = LockedPages(regions((16 * MIB, 2 * MIB), (1 << 40, 2 * MIB), (0, PAGE)))
    far = (1 << 40) // PAGE
    locked.lock(heads(0, 4096, far + 511), 1)
    assert locked.pfns.tolist() == [0, 4096, far + 511]
    locked.unlock(heads(4096), 1)
    locked.lock(heads(4096), 512)
    assert locked.pfns.tolist() == [0, *range(4096, 4608), far + 511]


def test_nobody_has_memory() -> None:
    locked = LockedPages(RegionTable([]))
    assert not locked.name_memory(heads(0, 1), 1).any()
    assert not locked.overlap(heads(), 512).size
    assert not locked.hold(heads(), 1).size
    locked.lock(heads(), 1)
    assert locked.pfns.tolist() == []
