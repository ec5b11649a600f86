"""Texts of other people's, in a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from ballonet.cli.cells import fit, on_one_line, wrapped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web", "web"),
        ("数据库", "数据库"),
        ("a\x1b[2Jb", "a�[2Jb"),
        ("a\nb\tc\rd", "a�b�c�d"),
        ("right\u202eleft", "right�left"),
        ("\u0301a\u0301\u0301\u0301\u0301", "a\u0301\u0301"),
        ("❤\ufe0f", "❤"),
        ("\udcff", "�"),
    ],
)
def test_what_would_steer_a_terminal_is_not_shown(text: str, shown: str) -> None:
    assert on_one_line(text) == shown


@given(st.text())
def test_whatever_a_text_is_it_stays_on_its_line(text: str) -> None:
    shown = on_one_line(text)
    assert shown.isprintable()
    assert on_one_line(shown) == shown


@given(st.text(), st.integers(1, 80))
def test_a_cell_is_exactly_as_wide_as_it_is_to_be(text: str, columns: int) -> None:
    assert cell_len(fit(on_one_line(text), columns)) == columns


def test_what_is_cut_says_so() -> None:
    assert fit("a-long-name", 6) == "a-lon…"
    assert fit("数据库", 5) == "数据…"
    assert fit("数据库", 4) == "数 …"
    assert fit("web", 5) == "web  "


@given(st.text(), st.integers(2, 80))
def test_a_text_that_is_wrapped_has_no_longer_line_and_loses_nothing(
    text: str, columns: int
) -> None:
    shown = on_one_line(text)
    lines = wrapped(shown, columns)
    assert all(0 < cell_len(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(shown.split())
