"""Answers of the laboratory on a real kernel in QEMU."""

from __future__ import annotations

import pytest
from tests.support.lab_turn import experiments_in_turn

from ballonet.lab.experiment import Kernel, perform
from ballonet.lab.notebook import Notebook
from ballonet.lab.questions import find


@pytest.mark.parametrize(("name", "kernel"), experiments_in_turn(Kernel.QEMU))
def test_what_is_seen_supports_the_answer(name: str, kernel: Kernel) -> None:
    perform(find(name), Notebook(), kernel)
