"""What has its turn today, where all of it would take too long each time.

All of it with BALLONET_WHOLE in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

import pytest

T = TypeVar("T")


def in_turn(parts: Iterable[T], days: int) -> list[T]:
    """Those parts that run today; as many days see all of them."""
    today = datetime.now(UTC).date().toordinal()
    return list(turn(parts, days, today, is_whole="BALLONET_WHOLE" in os.environ))


def turn(parts: Iterable[T], days: int, today: int, *, is_whole: bool) -> Iterator[T]:
    """Every so-manyth of the parts, from another one each day."""
    for number, part in enumerate(parts):
        if is_whole or number % days == today % days:
            yield part


def on_day(number: int, days: int) -> pytest.MarkDecorator:
    """For a test that runs on one of so many days."""
    return pytest.mark.skipif(
        number not in in_turn(range(days), days),
        reason=f"has its turn on one of {days} days; BALLONET_WHOLE=1 runs it",
    )
