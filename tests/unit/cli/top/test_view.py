"""What keys make of what is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cli.top.found_machines import MIB, found, machines, rows_of, web

from ballonet.cli.top.rows import Row, Sort
from ballonet.cli.top.view import Ask, Mode, Quit, View


def shown(*names: str) -> list[Row]:
    return rows_of(found("qemu", name, actual_bytes=len(name) * MIB) for name in names)


def seeing(*names: str) -> View:
    view = View()
    view.see(shown(*names))
    return view


def typed(view: View, *keys: str) -> object:
    """What the last key is for."""
    done = None
    for key in keys:
        done = view.feed(key)
    return done


def selected(view: View) -> str:
    assert view.selected is not None
    return view.selected.name


def test_a_machine_stays_selected_wherever_its_row_goes() -> None:
    view = seeing("a", "bb", "ccc")
    typed(view, "down")
    assert selected(view) == "bb"
    view.see(shown("0", "1", "a", "bb", "ccc"))
    assert selected(view) == "bb"
    typed(view, "n")
    assert (selected(view), view.rows[0].name, view.is_turned) == ("bb", "ccc", True)


def test_when_the_selected_one_is_gone_its_neighbour_is_selected() -> None:
    view = seeing("a", "bb", "ccc")
    typed(view, "end")
    view.see(shown("a", "bb"))
    assert selected(view) == "bb"
    view.see([])
    assert view.selected is None
    assert typed(view, "s", "enter", "down", "1", "enter") is None


def test_moves_end_at_the_first_and_the_last() -> None:
    view = seeing(*"abcdefgh")
    view.page_lines = 3
    for key, there in [("up", "a"), ("page down", "d"), ("end", "h"), ("j", "h"), ("home", "a")]:
        typed(view, key)
        assert selected(view) == there


def test_the_page_that_is_drawn_has_the_selected_row_and_is_full() -> None:
    view = seeing(*"abcdefgh")
    for place in range(8):
        first = view.first_row(3)
        assert first <= place < first + 3
        assert first + 3 <= 8
        typed(view, "down")


def test_a_letter_sorts_and_the_same_again_turns_it_round() -> None:
    view = seeing("a", "bb")
    typed(view, "a")
    assert (view.sort, view.is_turned) == (Sort.AVAILABLE, False)
    typed(view, "a")
    assert view.is_turned
    typed(view, "r")
    assert (view.sort, view.is_turned) == (Sort.RATE, False)


def test_a_filter_works_while_it_is_typed_stays_and_goes_with_escape() -> None:
    view = seeing("web", "web2", "db")
    typed(view, "/", "w", "e", "x")
    assert view.rows == []
    typed(view, "backspace", "enter")
    assert [row.name for row in view.rows] == ["web", "web2"]
    typed(view, "q".upper(), "escape")
    assert len(view.rows) == 3
    typed(view, "/", "d", "escape")
    assert (len(view.rows), view.mode) == (3, Mode.TABLE)


def test_letters_that_are_typed_are_no_commands() -> None:
    view = seeing("quark")
    assert typed(view, "/", "q") is None
    assert view.pattern == "q"


def test_a_size_is_asked_for_of_the_selected_machine() -> None:
    view = seeing("a", "bb")
    done = typed(view, "down", "s", *"1.5G", "enter")
    assert isinstance(done, Ask)
    assert (done.row.name, done.size_bytes) == ("bb", 1536 * MIB)
    done = typed(view, "s", *"min", "enter")
    assert isinstance(done, Ask)
    assert done.size_bytes is None


@pytest.mark.parametrize("text", ["512", "many", "-5M", "0"])
def test_a_size_that_is_none_is_told_and_can_be_mended(text: str) -> None:
    view = seeing("a")
    assert typed(view, "s", *text, "enter") is None
    assert (view.mode, view.typed) == (Mode.SIZE, text)
    assert "size: got" in view.message
    assert isinstance(typed(view, "clear", *"512M", "enter"), Ask)
    assert view.message == ""


def test_nothing_typed_asks_for_nothing() -> None:
    view = seeing("a")
    assert typed(view, "s", "enter") is None
    assert typed(view, "s", "5", "escape") is None
    assert view.mode is Mode.TABLE


def test_a_size_that_is_typed_for_one_that_is_gone_is_not_asked_of_another() -> None:
    view = seeing("a", "bb")
    typed(view, "s", *"512M")
    view.see(shown("bb"))
    assert typed(view, "enter") is None
    assert view.selected is not None
    assert (view.selected.name, view.shows_chart) == ("bb", True)  # enter was a command by then


def test_the_chart_of_one_that_is_gone_does_not_become_anothers() -> None:
    view = seeing("a", "bb")
    typed(view, "enter")
    assert view.shows_chart
    view.see(shown("bb"))
    assert (view.shows_chart, view.message) == (False, "a is gone")


def test_chart_and_help_are_left_for_what_was_there_before() -> None:
    view = seeing("a", "bb")
    modes = []
    for key in ("enter", "?", "q", "s", "escape", "escape"):
        typed(view, key)
        modes.append((view.mode.value, view.shows_chart))
    assert modes == [
        ("chart", True),
        ("help", False),
        ("chart", True),
        ("size", True),
        ("chart", True),
        ("table", False),
    ]


def test_q_quits_and_p_pauses() -> None:
    view = seeing("a")
    assert isinstance(typed(view, "q"), Quit)
    typed(view, "p")
    assert view.paused
    typed(view, " ")
    assert not view.paused


KEYS = [*"qkjnauhrsp/? 1GM", "up", "down", "page up", "page down", "home", "end", "enter"]
KEYS += ["escape", "backspace", "clear", "redraw"]


@given(st.lists(st.sampled_from(KEYS) | st.integers(0, 4)))
def test_whatever_is_typed_while_machines_come_and_go_one_of_those_there_is_selected(
    steps: list[str | int],
) -> None:
    view, everybody = View(), rows_of([web(), *machines()])
    for step in steps:
        if isinstance(step, int):
            view.see(everybody[:step])
        else:
            done = view.feed(step)
            assert not isinstance(done, Ask) or done.row in view.rows
        assert view.selected in view.rows if view.rows else view.selected is None
