"""Waiting until something is so, with an end that comes only if it never will be.

What an experiment waits for depends on a guest, and how long that takes on the machine: so the end
is far, and nothing is ever believed because a while has passed.
Units: seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from ballonet.errors import GuestError

__all__ = ["becomes", "wait_until"]

_END_S: Final = 120.0
_LOOK_S: Final = 0.05


def becomes(condition: Callable[[], bool], seconds: float = _END_S) -> bool:
    """Whether it is so before the time is over; for a claim, which may be false."""
    end_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(_LOOK_S)
    return True


def wait_until(condition: Callable[[], bool], what: str, seconds: float = _END_S) -> None:
    """Wait for what the experiment cannot go on without. Raises: GuestError, with `what`."""
    if not becomes(condition, seconds):
        raise GuestError(f"for {seconds:.0f} s {what}")
