"""Answers about the driver that a fault of our device would make false, on every day."""

from __future__ import annotations

import pytest

from ballonet.lab.experiment import Kernel, perform
from ballonet.lab.notebook import Notebook
from ballonet.lab.questions import find


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("stats-wire-format", Kernel.UML),
        ("init-on-free", Kernel.EMBEDDED),
        ("tell-host-migration", Kernel.UML),
        ("out-of-puff", Kernel.UML),
    ],
)
def test_what_is_seen_supports_the_answer(name: str, kernel: Kernel) -> None:
    perform(find(name), Notebook(), kernel)
