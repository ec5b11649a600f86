"""The tour of docs passes every answer."""

from __future__ import annotations

import re
from pathlib import Path

from ballonet.lab.questions import NAMES

TOUR = Path(__file__).parents[2] / "docs" / "tour.md"


def test_every_answer_is_on_the_tour() -> None:
    linked = set(re.findall(r"\(answers/([\w-]+)\.md\)", TOUR.read_text(encoding="utf-8")))
    assert set(NAMES) <= linked
