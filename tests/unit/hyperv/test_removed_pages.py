"""Which pages a guest has removed, each once, and in which order they go back."""

from __future__ import annotations

import numpy as np
from tests.support.hyperv_guest import Pairs

from ballonet.hyperv.page_ranges import NO_PAGES
from ballonet.hyperv.removed_pages import RemovedPages, TakenIn
from ballonet.memory.runs import PageRuns


def runs(*pairs: tuple[int, int]) -> PageRuns:
    firsts, pages = zip(*pairs, strict=True)
    return PageRuns(np.array(firsts, np.int64), np.array(pages, np.int64))


BOOT = runs((0, 100), (200, 100))
ADDED = runs((1000, 50))


def take_in(removed: RemovedPages, pairs: Pairs) -> TakenIn:
    return removed.take_in(runs(*pairs), BOOT, ADDED)


def test_memory_and_what_is_none_are_told_apart() -> None:
    removed = RemovedPages()
    taken = take_in(removed, [(90, 120), (1040, 20)])
    assert list(taken.given.pairs()) == [(90, 10), (200, 10), (1040, 10)]
    assert taken.outside_pages == 110
    assert taken.new_pages == 140
    assert (removed.both_pages, removed.guest_pages, removed.pages) == (30, 110, 140)
    assert list(removed.both.pairs()) == [(90, 10), (200, 10), (1040, 10)]


def test_a_page_counts_once_however_often_it_is_named() -> None:
    removed = RemovedPages()
    assert take_in(removed, [(5, 5), (7, 5), (5, 1)]).duplicate_pages == 4
    again = take_in(removed, [(0, 12), (150, 2)])
    assert list(again.given.pairs()) == [(0, 5)]
    assert again.duplicate_pages == 7
    assert take_in(removed, [(150, 2)]).duplicate_pages == 2
    assert (removed.both_pages, removed.guest_pages) == (12, 2)


def test_what_is_no_memory_goes_back_first_then_boot_memory_then_what_was_added() -> None:
    removed = RemovedPages()
    take_in(removed, [(1000, 3), (200, 2), (5, 5), (150, 1)])
    assert removed.take_lowest(10) == (150, 1)
    assert removed.take_lowest(3) == (5, 3)
    assert removed.take_lowest(3) == (8, 2)
    assert removed.take_lowest(3) == (200, 2)
    assert removed.take_lowest(3) == (1000, 3)
    assert removed.take_lowest(3) is None
    assert removed.pages == 0


def test_pages_that_no_message_can_give_back_are_not_remembered() -> None:
    """The first page of a range has 40 bits; a range may end beyond them."""
    removed = RemovedPages()
    taken = take_in(removed, [((1 << 40) - 3, 10), ((1 << 40) - 1, 5)])
    assert taken.outside_pages == 3
    assert taken.ignored_pages == 7
    assert taken.duplicate_pages == 5
    assert removed.take_lowest(100) == ((1 << 40) - 3, 3)
    assert removed.pages == 0


def test_a_guest_that_makes_up_ranges_costs_bounded_memory() -> None:
    removed = RemovedPages()
    ignored = 0
    for message in range(200):
        firsts = (1 << 20) + message * 2000 + 2 * np.arange(510)
        named = PageRuns(firsts, np.ones(510, np.int64))
        taken = removed.take_in(named, BOOT, NO_PAGES)
        ignored += taken.ignored_pages
        assert taken.duplicate_pages == 0
    assert removed.ranges <= 1 << 16
    assert removed.guest_pages + ignored == 200 * 510
    assert ignored > 0
