"""Runs cut to size, and zero pages: against three plain lines each."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.migration.stream_under_test import make_runs, numbers

from ballonet.errors import UsageError
from ballonet.memory.runs import PageRuns
from ballonet.migration.page_bounds import PageBounds
from ballonet.migration.run_pieces import WORDS, find_zero_pages, pages_of, pieces, slices, spans

PAGE = 4096


@st.composite
def runs(draw: st.DrawFn) -> PageRuns:
    """Ascending, not touching."""
    pairs = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=20))
    at, found = 0, []
    for gap, count in pairs:
        found.append((at + gap, count))
        at += gap + count
    return make_runs(*found)


@given(runs(), st.integers(1, 12))
def test_pieces_are_the_same_pages_in_order_and_all_but_the_last_are_full(
    given_runs: PageRuns, most: int
) -> None:
    cut = [numbers(piece) for piece in pieces(given_runs, most)]
    assert [pfn for piece in cut for pfn in piece] == numbers(given_runs)
    assert all(len(piece) == most for piece in cut[:-1])
    assert all(0 < len(piece) <= most for piece in cut)


@given(runs(), st.integers(1, 5))
def test_slices_are_the_same_runs(given_runs: PageRuns, most: int) -> None:
    cut = list(slices(given_runs, most))
    assert [pfn for part in cut for pfn in numbers(part)] == numbers(given_runs)
    assert all(0 < part.pages.size <= most for part in cut)


@given(runs())
def test_every_page_of_some_runs(given_runs: PageRuns) -> None:
    assert pages_of(given_runs).tolist() == numbers(given_runs)


@given(st.lists(st.integers(0, 40), min_size=1, unique=True).map(sorted))
def test_spans_are_the_numbers_and_never_touch(places: list[int]) -> None:
    found = list(spans(np.array(places)))
    assert [place for start, stop in found for place in range(start, stop)] == places
    assert all(stop < start for (_, stop), (start, _) in pairwise(found))


@given(st.lists(st.one_of(st.none(), st.integers(0, WORDS - 1)), min_size=1, max_size=8))
def test_a_page_is_zero_only_if_every_word_of_it_is(set_words: list[int | None]) -> None:
    words = np.zeros((len(set_words), WORDS), np.uint64)
    for row, word in zip(words, set_words, strict=True):
        if word is not None:
            row[word] = 1 << 40
    found = find_zero_pages(words)
    expected = [word is None for word in set_words]
    assert (found.tolist() if found is not None else [False] * len(words)) == expected


@given(runs())
def test_a_split_keeps_the_pages_and_puts_each_run_into_one_region(given_runs: PageRuns) -> None:
    borders = [0, 5, 6, 40, 400]
    bounds = PageBounds((a * PAGE, (b - a) * PAGE) for a, b in pairwise(borders))
    split = bounds.split(given_runs)
    assert numbers(split) == numbers(given_runs)
    assert bounds.find(split) is not None


@pytest.mark.parametrize("run", [(0, 1), (3, 3), (9, 2), (12, 1), (2, 9)])
def test_a_page_in_no_region_is_a_bug_of_the_caller(run: tuple[int, int]) -> None:
    bounds = PageBounds([(PAGE, 4 * PAGE), (7 * PAGE, 3 * PAGE)])
    with pytest.raises(UsageError):
        bounds.split(make_runs(run))


@pytest.mark.parametrize("regions", [[], [(0, 0)], [(0, 5000)], [(1, PAGE)], [(0, 2 * PAGE)] * 2])
def test_regions_that_are_no_whole_pages_or_overlap_are_a_bug_of_the_caller(
    regions: list[tuple[int, int]],
) -> None:
    with pytest.raises(UsageError):
        PageBounds(regions)


def test_what_regions_hold() -> None:
    bounds = PageBounds([(7 * PAGE, 3 * PAGE), (PAGE, 4 * PAGE)])
    assert (bounds.total_pages, bounds.end_pfn) == (7, 10)
