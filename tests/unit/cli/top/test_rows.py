"""What is known of each machine round after round, and in which order they stand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cli.top.found_machines import MIB, found, machines, rows_of, web

from ballonet.cli.top.rows import Sort, matching, sorted_rows
from ballonet.vms.condition import Condition
from ballonet.vms.observation import Aged, HostMemory


def test_what_is_used_is_what_is_kept_and_not_available() -> None:
    (row,) = rows_of([web()])
    assert row.used_bytes == (1024 - 300) * MIB
    (row,) = rows_of([web(statistics={})])
    assert row.used_bytes is None


def test_what_is_available_of_another_moment_than_the_size_makes_no_figure() -> None:
    (row,) = rows_of([web(statistics={"avail": Aged(1025 * MIB, 0.0)})])
    assert row.used_bytes is None


def test_rates_come_with_the_rounds_and_go_with_old_statistics() -> None:
    rounds = [[web(second)] for second in range(0, 8, 2)]
    (row,) = rows_of(*rounds)
    assert row.guest_rate("majflt") == 5.0
    (row,) = rows_of(*rounds, [web(9, statistics={"avail": Aged(1, 60.0)})])
    assert (row.is_old, row.guest_rate("majflt")) == (True, None)


def test_statistics_that_are_asked_for_rarely_are_not_old() -> None:
    statistics = {"avail": Aged(1, 60.0)}
    (row,) = rows_of([web(statistics=statistics, poll_interval_s=60)])
    assert not row.is_old


def test_two_of_one_name_are_two_and_keep_their_own_past() -> None:
    rounds = [[web(second, 1000 + 10 * second), web(second, 2000)] for second in range(0, 6, 2)]
    one, two = rows_of(*rounds)
    assert (one.key.number, two.key.number) == (0, 1)
    assert [point.actual_bytes for point in one.points()] == [1000 * MIB, 1020 * MIB, 1040 * MIB]
    assert [point.actual_bytes for point in two.points()] == [2000 * MIB] * 3


def test_one_that_is_gone_has_no_past_when_it_comes_again() -> None:
    (row,) = rows_of([web(0)], [], [web(4)])
    assert len(row.points()) == 1


def test_one_that_is_silent_for_a_moment_is_not_called_so() -> None:
    assert rows_of([found("qemu", "db", "it keeps silent", 0.5)])[0].condition is Condition.QUIET
    assert rows_of([found("qemu", "db", "it keeps silent", 4.0)])[0].condition is Condition.SILENT
    assert rows_of([found("qemu", "db", "refused")])[0].condition is Condition.UNREACHED


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", 4),
        ("we", 1),
        ("qemu:", 2),
        ("*b", 2),
        ("qemu:*", 2),
        ("据", 1),
        ("nobody", 0),
    ],
)
def test_a_word_is_found_anywhere_in_a_name_and_a_pattern_is_all_of_it(
    text: str, names: int
) -> None:
    assert len(matching(rows_of(machines()), text)) == names


VALUES = {
    Sort.AVAILABLE: lambda row: row.look.available_bytes,
    Sort.USED: lambda row: row.used_bytes,
    Sort.HELD: lambda row: row.look.host.held_bytes,
    Sort.RATE: lambda row: row.guest_rate("majflt"),
}


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(0, 1 << 40),
            st.none() | st.integers(0, 1 << 40),
            st.none() | st.integers(0, 1 << 40),
        )
    ),
    st.sampled_from(list(VALUES)),
    st.booleans(),
)
def test_what_needs_a_look_comes_first_and_what_is_not_known_last(
    sizes: list[tuple[int | None, int | None, int | None]], sort: Sort, is_turned: bool
) -> None:
    rows = rows_of(
        found(
            "qemu",
            f"vm{number}",
            actual_bytes=actual,
            statistics={} if available is None else {"avail": Aged(available, 0.0)},
            host=HostMemory(held),
        )
        for number, (actual, available, held) in enumerate(sizes)
    )
    values = [VALUES[sort](row) for row in sorted_rows(rows, sort, is_turned=is_turned)]
    known = [value for value in values if value is not None]
    assert values == known + [None] * (len(values) - len(known))
    least_first = (sort is Sort.AVAILABLE) is not is_turned
    assert known == sorted(known, reverse=not least_first)


def test_names_are_in_the_order_of_names_either_way() -> None:
    rows = rows_of(machines())
    names = [row.name for row in sorted_rows(rows, Sort.NAME)]
    assert names == sorted(names)
    assert [row.name for row in sorted_rows(rows, Sort.NAME, is_turned=True)] == names[::-1]
