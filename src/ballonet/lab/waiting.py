"""Waiting for what a guest or its host comes to do, with an end that comes only if it never does.

How long it takes depends on the machine: so the end is far, and nothing is ever believed because a
while has passed.
Units: seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from ballonet.errors import GuestError

__all__ = ["becomes", "wait_for", "wait_until"]

T = TypeVar("T")

_END_S: Final = 180.0
_LOOK_S: Final = 0.05


def becomes(condition: Callable[[], bool], seconds: float | None = None) -> bool:
    """Whether it is so before the time is over; for a claim, which may be false."""
    end_s = time.monotonic() + (_END_S if seconds is None else seconds)
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(_LOOK_S)
    return True


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what the experiment cannot go on without.

    Raises: GuestError, with `what`: what is wrong if it does not come.
    """
    if not becomes(condition):
        raise GuestError(f"for {_END_S:.0f} s {what}")


def wait_for(look: Callable[[], T], what: str, *, look_s: float = _LOOK_S) -> T:
    """The first true value of `look`. Raises: GuestError, naming what did not come."""
    end_s = time.monotonic() + _END_S
    while not (value := look()):
        if time.monotonic() > end_s:
            raise GuestError(f"{what} did not come within {_END_S:.0f} s")
        time.sleep(look_s)
    return value
