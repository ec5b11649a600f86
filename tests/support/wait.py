"""Waiting for something that happens elsewhere, without sleeping blindly."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import Final, TypeVar

T = TypeVar("T")

_POLL_S: Final = 0.002


def wait_until(predicate: Callable[[], T | None], timeout_s: float, message: str) -> T:
    """The first true value of `predicate`. Raises: AssertionError with `message`, if none comes."""
    end_s = time.monotonic() + timeout_s
    never = Event()
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= end_s:
            raise AssertionError(f"{message} (waited {timeout_s} s, last seen: {value!r})")
        never.wait(_POLL_S)
