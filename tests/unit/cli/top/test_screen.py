"""The whole screen, at every width and height."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tests.unit.cli.top.found_machines import GIB, SCENE, found, machines, rows_of, web

from ballonet.cli.top.columns import COLUMNS, age_in_words, table_for
from ballonet.cli.top.rows import Row, Sort
from ballonet.cli.top.screen import once_lines, screen_lines
from ballonet.cli.top.view import View
from ballonet.vms.observation import Aged, HostMemory

#: Looked at in a terminal of these widths.
SHOWN = {
    60: """\
ballonet top  20:41:07  4 VMs  every 2 s
host 24.0G, 21.0G available  swap 1.00G, 5.00M used
pressure 1.5%  all keep 2.48G (1 unknown)
held for them 2.83G (2 unknown)
name▾          memory  keeps   used  avail   held  state
a-machine-wi…    512M   512M      ?      ?      ?  paused
db              2.00G  1000M   700M   300M      ?  silent
web             4.00G  1.00G   724M   300M   900M
数据库          2.00G      ?      ?      ?  1.95G  unreached
cloud-hypervisor:a-machine-with-a-very-long-name-of-its-own,
/run/a-machine-with-a-very-long-name-of-its-own, paused
? help  q quit  enter chart  s size  / filter
""",
    80: """\
ballonet top  20:41:07  4 VMs  every 2 s
host 24.0G, 21.0G available  swap 1.00G, 5.00M used  pressure 1.5%
all keep 2.48G (1 unknown)  held for them 2.83G (2 unknown)
name▾            memory  target  keeps   used  avail  faults/s   held  state
a-machine-with…    512M       ?   512M      ?      ?         ?      ?  paused
db                2.00G       ?  1000M   700M   300M         ?      ?  silent
web               4.00G   1.00G  1.00G   724M   300M         5   900M
数据库            2.00G       ?      ?      ?      ?         ?  1.95G  unreached
""",
    120: """\
name▾           kind              memory  target  keeps   used  avail  cache  swapin/s  faults/s   held  state       age
a-machine-wit…  cloud-hypervisor    512M       ?   512M      ?      ?      ?         ?         ?      ?  paused
db              qemu               2.00G       ?  1000M   700M   300M      ?         ?         ?      ?  silent     100s
web             ballonet           4.00G   1.00G  1.00G   724M   300M   120M     20.0K         5   900M
数据库          qemu               2.00G       ?      ?      ?      ?      ?         ?         ?  1.95G  unreached
""",  # noqa: E501 - as wide as it is
}


def seen(rows: list[Row], columns: int, lines: int, *keys: str) -> list[str]:
    """What stands on the screen after some keys."""
    view = View()
    view.see(rows)
    for key in keys:
        view.feed(key)
    return [line.plain for line in screen_lines(view, SCENE, columns, lines)]


@pytest.mark.parametrize("columns", SHOWN)
def test_it_looks_as_it_was_looked_at(columns: int) -> None:
    rows = rows_of(machines(0), machines(6))
    lines = [line.rstrip() for line in seen(rows, columns, 16)]
    shown = [line for line in lines if line]
    wanted = SHOWN[columns].splitlines()
    begin = shown.index(wanted[0])
    assert shown[begin : begin + len(wanted)] == wanted


def test_only_rows_that_are_seen_are_made() -> None:
    made: list[str] = []

    class Counted(Row):
        @property
        def used_bytes(self) -> int | None:
            made.append(self.key.name)
            return None

    rows = rows_of(found("qemu", f"vm{number:03}") for number in range(200))
    counted: list[Row] = [Counted(row.key, row.found) for row in rows]
    lines = seen(counted, 120, 24)
    assert sum(line.startswith("vm") for line in lines) == len(made) < 24


def test_a_head_goes_before_the_table_does_and_the_last_line_is_always_there() -> None:
    rows = rows_of(machines())
    assert seen(rows, 80, 8)[0].startswith("name")
    assert seen(rows, 80, 2)[-1].startswith("? help")
    assert seen(rows, 80, 1)[0].startswith("a-machine")
    assert seen(rows, 80, 1, "/", "x")[0].startswith("show names with: x")


def test_what_the_table_has_no_room_for_stands_below_it() -> None:
    rows = rows_of(machines())
    below = " ".join(seen(rows, 60, 20, "end"))
    assert "qemu:数据库, not reached: its monitor serves one client at a time" in below
    assert "process 812 has it" in below


def test_a_size_that_is_typed_is_seen_however_narrow_it_is() -> None:
    rows = rows_of([web()])
    last = seen(rows, 60, 20, "s", *"512M")[-1]
    assert last == "web is to keep (512M, min, 1.0 GiB now of 4.0 GiB): 512M▏"
    assert seen(rows, 20, 20, "s", *"512M")[-1].endswith(": 512M▏")


def test_the_help_has_every_key_and_column_at_every_width() -> None:
    for columns in (60, 80, 120):
        lines = seen([], columns, 24, "?")
        words = {line.split()[0] for line in lines if line.strip()}
        assert {"up,", "enter", "s", "/", "n", "p", "q"} <= words
        assert {column.head for column in COLUMNS} <= words
        assert lines[-1] == "any key goes back"


def test_the_chart_has_all_figures_and_its_bars() -> None:
    rows = rows_of(*([web(second, 4096 - 512 * second)] for second in range(0, 8, 2)))
    lines = seen(rows, 60, 24, "enter")
    words = " ".join(lines)
    for word in ("faults/s 5", "cache 120M", "swapin/s 20.0K", "keeps  1.00G now, 1.00G to 4.00G"):
        assert word in words
    assert any(line.endswith("██  ") for line in lines)


def test_nobody_there_is_said_so_once_that_is_known() -> None:
    shown = [line.plain for line in screen_lines(View(), SCENE, 80, 10)]
    assert "looking for VMs ..." in shown
    assert "no VM runs here" in " ".join(seen([], 80, 10))
    assert "no VM here is like that" in " ".join(
        seen(rows_of(machines()), 80, 10, "/", "x", "enter")
    )


def test_one_round_has_every_row_and_what_is_wrong_with_whom() -> None:
    rows = rows_of(found("qemu", f"vm{number:03}", actual_bytes=GIB) for number in range(100))
    rows += rows_of(machines())
    lines = [line.plain for line in once_lines(rows, SCENE, 80, Sort.NAME)]
    assert sum(line.startswith("vm") for line in lines) == 100
    assert any("process 812 has it" in line for line in lines)
    assert all(cell_len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("age_s", "text"),
    [(0.4, "0s"), (119, "119s"), (121, "2m"), (8000, "2h"), (1e6, "11d"), (1e12, "999d")],
)
def test_an_age_has_four_letters_at_most(age_s: float, text: str) -> None:
    assert age_in_words(age_s) == text


sizes = st.none() | st.integers(-(2**64), 2**64 - 1)


@st.composite
def any_machine(draw: st.DrawFn) -> Row:
    """Whatever a VM is called, and whatever it tells or does not."""
    statistics = draw(
        st.dictionaries(
            st.sampled_from(["avail", "caches", "memfree", "majflt", "swap_in"]),
            st.builds(Aged, st.integers(0, 2**64 - 2), st.none() | st.floats(0, 1e12)),
        )
    )
    (row,) = rows_of(
        [
            found(
                draw(st.sampled_from(["qemu", "cloud-hypervisor", "ballonet"])),
                draw(st.text(max_size=60)),
                draw(st.text(max_size=90)),
                draw(st.none() | st.floats(0, 1e9)),
                memory_bytes=draw(sizes),
                target_bytes=draw(sizes),
                actual_bytes=draw(sizes),
                statistics=statistics,
                host=HostMemory(draw(sizes)),
                paused=draw(st.none() | st.booleans()),
                problem=draw(st.none() | st.text(max_size=90)),
            )
        ]
    )
    rates = draw(st.dictionaries(st.sampled_from(["majflt", "swap_in"]), st.floats(0, 1e20)))
    return Row(row.key, row.found, row.condition, row.suffers_from, rates)


@given(
    st.lists(any_machine(), max_size=6),
    st.integers(60, 200),
    st.integers(1, 60),
    st.lists(
        st.sampled_from(["down", "enter", "?", "/", "s", "数", "e", "a", "escape"]), max_size=6
    ),
)
def test_no_line_is_longer_than_the_terminal_and_there_are_as_many_as_it_has(
    rows: list[Row], columns: int, lines: int, keys: list[str]
) -> None:
    drawn = seen(rows, columns, lines, *keys)
    assert len(drawn) == lines
    for line in drawn:
        assert cell_len(line) <= columns
        assert line.isprintable()


@given(st.lists(any_machine(), min_size=1, max_size=6), st.integers(60, 200))
def test_heads_stand_above_what_they_are_of(rows: list[Row], columns: int) -> None:
    table = table_for(columns, rows)
    lines = [table.head(Sort.HELD, is_turned=False), *(table.line(row) for row in rows)]
    assert len({cell_len(line.plain) for line in lines}) == 1
