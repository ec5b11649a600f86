"""The last rounds of a machine, drawn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet.cli.top.chart import bars, chart_lines
from ballonet.vms.history import Point


def test_a_bar_is_as_high_as_its_part_of_the_scale() -> None:
    assert bars([0, 4, 8, 12, 16], 16, 5, 2) == ["   ▄█", " ▄███"]


def test_what_is_not_known_is_no_bar_and_little_is_one() -> None:
    assert bars([None, 1, 0], 1 << 40, 3, 2) == ["   ", "·▁ "]


def test_the_newest_stands_at_the_right_and_older_ones_leave_at_the_left() -> None:
    assert bars([8, 4], 8, 4, 1) == ["  █▄"]
    assert bars([8, 4, 2], 8, 2, 1) == ["▄▂"]


def test_all_bars_have_one_scale() -> None:
    lines = [line.plain for line in chart_lines([Point(800, 400, 200)], 800, 30, 6)]
    assert [line[-1] for line in lines[1::2]] == ["█", "▄", "▂"]
    assert lines[0] == "keeps  800B now, 800B to 800B, of 800B"
    assert next(chart_lines([Point()], None, 30, 6)).plain == "keeps  not known"


@given(
    st.lists(st.builds(Point, *[st.none() | st.integers(-5, 2**64)] * 3), max_size=300),
    st.none() | st.integers(-5, 2**64),
    st.integers(20, 200),
    st.integers(1, 60),
)
def test_a_chart_is_as_wide_as_it_may_be_whatever_was_told(
    points: list[Point], memory_bytes: int | None, columns: int, lines: int
) -> None:
    drawn = [line.plain for line in chart_lines(points, memory_bytes, columns, lines)]
    assert all(len(line) == columns for line in drawn if not line[:1].isalpha())


@pytest.mark.parametrize("lines", [1, 3, 6, 20])
def test_a_chart_has_no_more_lines_than_it_may_unless_by_its_titles(lines: int) -> None:
    assert len(list(chart_lines([Point(1, 1, 1)], 1, 40, lines))) <= max(lines, 6)
