"""Waiting for what a guest or its host comes to do, however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from ballonet.errors import GuestError

__all__ = ["wait_for"]

T = TypeVar("T")

#: Tells a hang from a busy machine, and decides nothing else.
_PATIENCE_S: Final = 180.0
_LOOK_S: Final = 0.05


def wait_for(look: Callable[[], T], what: str, *, look_s: float = _LOOK_S) -> T:
    """The first true value of `look`. Raises: GuestError, naming what did not come."""
    end_s = time.monotonic() + _PATIENCE_S
    while not (value := look()):
        if time.monotonic() > end_s:
            raise GuestError(f"{what} did not come within {_PATIENCE_S:.0f} s")
        time.sleep(look_s)
    return value
