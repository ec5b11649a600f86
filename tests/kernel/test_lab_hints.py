"""Answers of the laboratory about hint rounds, each run every time: faults rest on them."""

from __future__ import annotations

import pytest

from ballonet.lab.experiment import Kernel, perform
from ballonet.lab.notebook import Notebook
from ballonet.lab.questions import find


@pytest.mark.parametrize("name", ["stop-and-done"])
def test_what_is_seen_supports_the_answer(name: str) -> None:
    perform(find(name), Notebook(), Kernel.UML)
