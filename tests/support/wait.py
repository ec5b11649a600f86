"""Waiting for something that happens elsewhere, without sleeping blindly.

A time-out tells a hang from a slow machine and decides nothing else, so it is never short.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import Final, TypeVar

T = TypeVar("T")

#: What ends a wait that would never end; far beyond what a busy machine needs.  Seconds.
PATIENCE_S: Final = 120.0

_POLL_S: Final = 0.002


def wait_until(predicate: Callable[[], T | None], timeout_s: float, message: str) -> T:
    """The first true value of `predicate`; a shorter time-out is taken for `PATIENCE_S`.

    Raises: AssertionError with `message`, if none comes.
    """
    timeout_s = max(timeout_s, PATIENCE_S)
    end_s = time.monotonic() + timeout_s
    never = Event()
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= end_s:
            raise AssertionError(f"{message} (waited {timeout_s} s, last seen: {value!r})")
        never.wait(_POLL_S)
