"""What the agent remembers, as rounds before the first one."""

from __future__ import annotations

from tests.support.rounds import machine

from ballonet.cli.top.recalled import Moment, as_rounds, points_of
from ballonet.cli.top.rows import Tracks
from ballonet.vms.history import Point

KEYS = ["at", "memory", "target", "actual", "available", "held"]


def test_values_are_found_by_their_names() -> None:
    assert points_of(KEYS, [[5.0, 1, 2, 3, 4, None]]) == [Moment(5.0, Point(3, 4, None))]


def test_each_round_has_what_was_known_then() -> None:
    moments = [Moment(100.0, Point(1)), Moment(110.0, Point(2))]
    assert as_rounds(moments, 5.0, 115.0, 5) == [Point(), Point(1), Point(1), Point(2), Point(2)]


def test_what_was_not_written_down_for_long_is_not_known() -> None:
    moments = [Moment(0.0, Point(1)), Moment(100.0, Point(2))]
    assert as_rounds(moments, 20.0, 100.0, 6) == [
        Point(1), Point(1), Point(), Point(), Point(), Point(2),
    ]  # fmt: skip


def test_rounds_longer_apart_than_what_is_remembered_have_no_gaps() -> None:
    moments = [Moment(10.0 * number, Point(number)) for number in range(61)]
    assert as_rounds(moments, 120.0, 600.0, 5) == [
        Point(12),
        Point(24),
        Point(36),
        Point(48),
        Point(60),
    ]


def test_of_nothing_nothing_is_known() -> None:
    assert as_rounds([], 1.0, 100.0, 2) == [Point(), Point()]


def test_a_machine_s_chart_begins_with_what_was_remembered_of_it() -> None:
    tracks = Tracks()
    tracks.recall({"qemu:web": [Point(1), Point(2)], "ballonet:web": [Point(7)]})
    (row,) = tracks.see([machine("web", 1.0, actual_bytes=3)])
    assert row.points()[:2] == (Point(1), Point(2))
    assert [point.actual_bytes for point in row.points()] == [1, 2, 3]
    (row,) = tracks.see([machine("web", 2.0, actual_bytes=4)])
    assert [point.actual_bytes for point in row.points()] == [1, 2, 3, 4]
