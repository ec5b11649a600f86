"""Which experiments have their turn today: a third of them, so that three days see all."""

from __future__ import annotations

from typing import Final

from tests.support.turn import in_turn

from ballonet.lab.experiment import Kernel
from ballonet.lab.questions import NAMES, find

DAYS: Final = 3


def experiments_in_turn(*kernels: Kernel) -> list[tuple[str, Kernel]]:
    """Names and kernels of those that run on one of these."""
    return [
        (name, kernel)
        for name in in_turn(NAMES, DAYS)
        for kernel in find(name).runs
        if kernel in kernels
    ]
