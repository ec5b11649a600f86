"""Hints of one round are kept as runs, those of any other are not."""

from __future__ import annotations

import numpy as np
import pytest

from ballonet.balloon import hinted_pages
from ballonet.balloon.facts import PagesHinted
from ballonet.balloon.hinted_pages import HintedPages, join_runs
from ballonet.memory.runs import PageRuns

ROUND = 0x8000_0007


def runs(*pairs: tuple[int, int]) -> PageRuns:
    firsts, pages = np.array(pairs, np.int64).reshape(-1, 2).T
    return PageRuns(firsts, pages)


def pairs(of: PageRuns) -> list[tuple[int, int]]:
    return list(zip(of.first_pfns.tolist(), of.pages.tolist(), strict=True))


def hinting(*hints: tuple[int, int], cmd_id: int = ROUND) -> HintedPages:
    made = HintedPages()
    made.begin(ROUND)
    for hint in hints:
        made.add(PagesHinted(cmd_id, runs(hint)))
    return made


def test_hints_are_joined_whatever_their_order_and_overlap() -> None:
    made = hinting((40, 8), (0, 4), (4, 4), (44, 2), (41, 20), (8, 1))
    assert made.has_more
    assert pairs(made.take(9)) == [(0, 9), (40, 21)]
    assert not made.has_more
    assert pairs(made.take(9)) == []


def test_only_so_many_runs_are_taken_at_a_time_and_the_rest_next_time() -> None:
    made = hinting(*((10 * i, 2) for i in range(5)))
    assert pairs(made.take(2)) == [(0, 2), (10, 2)]
    made.add(PagesHinted(ROUND, runs((22, 1))))
    assert pairs(made.take(2)) == [(20, 3), (30, 2)]
    assert made.has_more
    assert pairs(made.take(2)) == [(40, 2)]


@pytest.mark.parametrize("cmd_id", [ROUND - 1, ROUND + 1, 0])
def test_a_hint_of_another_round_is_never_kept(cmd_id: int) -> None:
    assert not hinting((1, 1), cmd_id=cmd_id).has_more


def test_another_round_forgets_the_hints_of_the_one_before() -> None:
    made = hinting((1, 1))
    made.begin(ROUND + 1)
    made.add(PagesHinted(ROUND, runs((2, 1))))
    assert pairs(made.take(9)) == []
    made.begin(None)
    made.add(PagesHinted(ROUND + 1, runs((2, 1))))
    assert not made.has_more


def test_what_a_guest_hints_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hinted_pages, "RUNS_MAX", 100)
    monkeypatch.setattr(hinted_pages, "_WAITING_MAX", 10)
    made = hinting(*((2 * i, 1) for i in range(1000)))
    assert len(made._waiting) <= 11
    assert len(made.take(1000).pages) == 100


def test_joined_runs_are_the_pages_of_all() -> None:
    random = np.random.default_rng(5)
    for _ in range(200):
        given = [(int(first), int(pages)) for first, pages in random.integers(1, 60, (8, 2))]
        joined = join_runs([runs(*given[:3]), runs(*given[3:])])
        wanted = {page for first, pages in given for page in range(first, first + pages)}
        found = [page for first, pages in pairs(joined) for page in range(first, first + pages)]
        assert found == sorted(wanted)
        gaps = joined.first_pfns[1:] - (joined.first_pfns + joined.pages)[:-1]
        assert (gaps > 0).all()
