"""Sets of ranges do what sets of pages do."""

from __future__ import annotations

import numpy as np
import pytest
from tests.support.hyperv_guest import Pairs, pages_of

from ballonet.hyperv.page_ranges import (
    NO_PAGES,
    PageRangeSet,
    common_pages,
    cut_runs,
    each_page,
    memory_pages,
    merge_ranges,
    without_pages,
)
from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import PageRuns


def runs(*pairs: tuple[int, int]) -> PageRuns:
    firsts, pages = zip(*pairs, strict=True) if pairs else ((), ())
    return PageRuns(np.array(firsts, np.int64), np.array(pages, np.int64))


def pairs_of(found: PageRuns) -> list[tuple[int, int]]:
    return list(found.pairs())


@pytest.mark.parametrize(
    ("named", "merged"),
    [
        ([], []),
        ([(5, 0)], []),
        ([(5, 2), (7, 3)], [(5, 5)]),
        ([(7, 3), (5, 2)], [(5, 5)]),
        ([(5, 10), (6, 2), (20, 1)], [(5, 10), (20, 1)]),
        ([(5, 2), (5, 2), (4, 1), (8, 1)], [(4, 3), (8, 1)]),
        ([(2**40 - 1, 2**24 - 1), (0, 1)], [(0, 1), (2**40 - 1, 2**24 - 1)]),
    ],
)
def test_ranges_of_any_order_become_runs(named: Pairs, merged: Pairs) -> None:
    assert pairs_of(merge_ranges(runs(*named))) == merged


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([(0, 10)], [(3, 2), (7, 1)]),
        ([(3, 2), (7, 1)], [(0, 10)]),
        ([(0, 5), (10, 5)], [(3, 9)]),
        ([(0, 5)], [(5, 5)]),
        ([], [(1, 1)]),
        ([(1, 1)], []),
        ([(0, 3), (5, 3), (10, 3)], [(1, 1), (5, 3), (12, 9)]),
    ],
)
def test_what_is_common_and_what_is_not(one: Pairs, other: Pairs) -> None:
    both = common_pages(runs(*one), runs(*other))
    rest = without_pages(runs(*one), runs(*other))
    assert pages_of(pairs_of(both)) == pages_of(one) & pages_of(other)
    assert pages_of(pairs_of(rest)) == pages_of(one) - pages_of(other)
    assert (both.pages > 0).all()
    assert (rest.pages > 0).all()


def test_adding_tells_what_is_new_and_joins_what_touches() -> None:
    pages = PageRangeSet()
    assert pairs_of(pages.add(runs((10, 5), (20, 5)))) == [(10, 5), (20, 5)]
    assert pairs_of(pages.add(runs((12, 10)))) == [(15, 5)]
    assert pairs_of(pages.runs) == [(10, 15)]
    assert pages.add(runs((10, 15))).total_pages == 0
    assert pages.pages == 15
    assert pairs_of(pages.add(runs((25, 1)))) == [(25, 1)]
    assert pairs_of(pages.add(runs((9, 1)))) == [(9, 1)]
    assert pairs_of(pages.add(runs((0, 1), (100, 1)))) == [(0, 1), (100, 1)]
    assert pairs_of(pages.runs) == [(0, 1), (9, 17), (100, 1)]
    assert pages.pages == 19
    assert len(pages) == 3


def test_the_lowest_are_taken_first_and_in_parts() -> None:
    pages = PageRangeSet()
    pages.add(runs((10, 5), (20, 5)))
    before = pages.runs
    assert pages.take_lowest(3) == (10, 3)
    assert pages.take_lowest(3) == (13, 2)
    assert pages.take_lowest(5) == (20, 5)
    assert pages.take_lowest(5) is None
    assert pages.pages == 0
    assert pairs_of(before) == [(10, 5), (20, 5)]


@pytest.mark.parametrize("most", [1, 2, 3, 5, 7, 100])
def test_runs_are_cut_into_parts_of_a_size(most: int) -> None:
    whole = runs((1, 4), (7, 1), (9, 6))
    parts = list(cut_runs(whole, most))
    assert np.concatenate([each_page(part) for part in parts]).tolist() == [
        *range(1, 5),
        7,
        *range(9, 15),
    ]
    assert all(part.total_pages == most for part in parts[:-1])
    assert 0 < parts[-1].total_pages <= most
    assert list(cut_runs(NO_PAGES, most)) == []


def test_only_pages_wholly_in_one_region_are_memory() -> None:
    table = RegionTable(
        [
            Region(0x1000, 0x2000, 0, 0),
            Region(0x3000, 0x800, 0x10000, 0),
            Region(0x3800, 0x1900, 0x20000, 0),
        ]
    )
    assert pairs_of(memory_pages(table)) == [(1, 2), (4, 1)]
    assert pairs_of(memory_pages(RegionTable([]))) == []
