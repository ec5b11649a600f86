"""Every question has its page, with the answer as it stands in the source, and a printed run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.cli.lab import index_of_answers
from ballonet.lab.notebook import Notebook
from ballonet.lab.questions import NAMES, find
from ballonet.lab.report import as_document

ANSWERS = Path(__file__).parents[2] / "docs" / "answers"
RUN = "```console\n"


@pytest.mark.parametrize("name", NAMES)
def test_its_page_says_what_the_source_says(name: str) -> None:
    page = (ANSWERS / f"{name}.md").read_text(encoding="utf-8")
    expected = as_document(find(name), Notebook())
    assert page.partition(RUN)[0] == expected.partition(RUN)[0]
    assert page.rpartition("```\n")[2] == expected.rpartition("```\n")[2]
    assert f"$ ballonet lab {name}\non " in page
    assert "✗" not in page


def test_the_list_has_all_of_them_and_nothing_else_is_there() -> None:
    assert (ANSWERS / "README.md").read_text(encoding="utf-8") == index_of_answers()
    assert {path.stem for path in ANSWERS.iterdir()} == {*NAMES, "README"}
