"""Waiting for something that happens elsewhere, without sleeping blindly.

A time-out tells a hang from a slow machine and decides nothing else, so it is never short.  That
nothing happens can only be watched for a while (`holds`): a slow machine may hide a fault then,
but never invent one.  No other test sleeps or reads a clock to decide.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from threading import Event
from typing import Final, TypeVar

T = TypeVar("T")

#: What ends a wait that would never end; far beyond what a busy machine needs.  Seconds.
PATIENCE_S: Final = 120.0

_POLL_S: Final = 0.002
_ASYNC_POLL_S: Final = 0.05  # each look is a command to another process


def wait_until(
    predicate: Callable[[], T | None], timeout_s: float, message: str, *, every_s: float = _POLL_S
) -> T:
    """The first true value of `predicate`; a shorter time-out is taken for `PATIENCE_S`.

    `every_s`: longer where each look is work for whom it waits for.
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
        never.wait(every_s)


def holds(predicate: Callable[[], bool], seconds: float) -> bool:
    """Whether something is true now and stays so for a while."""
    end_s = time.monotonic() + seconds
    never = Event()
    while predicate():
        if time.monotonic() >= end_s:
            return True
        never.wait(_POLL_S)
    return False


async def comes_true(predicate: Callable[[], Awaitable[bool]]) -> bool:
    """Whether something becomes true within `PATIENCE_S`."""
    end_s = time.monotonic() + PATIENCE_S
    while not await predicate():
        if time.monotonic() >= end_s:
            return False
        await asyncio.sleep(_ASYNC_POLL_S)
    return True


async def stays_true(predicate: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Whether something is true now and stays so for a while."""
    end_s = time.monotonic() + seconds
    while await predicate():
        if time.monotonic() >= end_s:
            return True
        await asyncio.sleep(_ASYNC_POLL_S)
    return False
