"""Moves of a balloon's pages, recognised in messages."""

from __future__ import annotations

import pytest

from ballonet.lab.page_moves import PageMove, Told, balloon_of, follow_moves


def given(*pfns: int) -> Told:
    return Told(is_inflate=True, pfns=pfns)


def taken(*pfns: int) -> Told:
    return Told(is_inflate=False, pfns=pfns)


def test_a_move_is_a_page_given_and_then_one_taken() -> None:
    told = [given(7), taken(1), given(8), taken(7)]
    assert follow_moves(told, {1, 2}) == [PageMove(1, 7), PageMove(7, 8)]
    assert follow_moves([], {1}) == []
    assert [one.verb for one in told[:2]] == ["inflate", "deflate"]


@pytest.mark.parametrize(
    "told",
    [
        [taken(1), given(7)],
        [given(7), given(8)],
        [given(7)],
        [given(7, 8), taken(1)],
        [given(7), taken(1, 2)],
        [given(2), taken(1)],
        [given(7), taken(3)],
    ],
    ids=["other order", "only given", "half", "two given", "two taken", "was in it", "was not"],
)
def test_anything_else_is_none(told: list[Told]) -> None:
    assert follow_moves(told, {1, 2}) is None


def test_what_was_given_and_not_taken_back_is_in_the_balloon() -> None:
    assert balloon_of([given(1, 2, 3), taken(2), given(4), taken(4, 9)]) == {1, 3}
