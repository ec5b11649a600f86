"""Which experiments have their turn today: a third of them, so that three days see all.

All of them with BALLONET_WHOLE in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from ballonet.lab.experiment import Kernel
from ballonet.lab.questions import NAMES, find

THIRDS: Final = 3


def in_turn(*kernels: Kernel) -> list[tuple[str, Kernel]]:
    """Names and kernels of those that run on one of these."""
    day = datetime.now(UTC).date().toordinal()
    return list(turn(day, kernels, is_whole="BALLONET_WHOLE" in os.environ))


def turn(day: int, kernels: Iterable[Kernel], *, is_whole: bool) -> Iterable[tuple[str, Kernel]]:
    for number, name in enumerate(NAMES):
        if is_whole or number % THIRDS == day % THIRDS:
            yield from ((name, kernel) for kernel in find(name).runs if kernel in kernels)
