"""What a device was told and did, in the order of what happened, for those who look later.

Facts come on the device's thread, and are looked at on another.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from ballonet.balloon.facts import Fact
from ballonet.control.device_control import DeviceControl

__all__ = ["HeardFact", "HeardFacts", "hearing"]

F = TypeVar("F")


class HeardFact(NamedTuple):
    """One, and when."""

    at_s: float  #: by time.monotonic
    fact: Fact


class HeardFacts:
    """All of them since `hearing` began."""

    def __init__(self) -> None:
        self._heard: list[HeardFact] = []

    def hear(self, fact: Fact) -> None:
        """Note one."""
        self._heard.append(HeardFact(time.monotonic(), fact))

    def now_s(self) -> float:
        """Of the same clock."""
        return time.monotonic()

    def __len__(self) -> int:
        return len(self._heard)

    def since(self, mark: int) -> list[HeardFact]:
        """Those that came after there were so many."""
        return self._heard[mark:]

    def of(self, kind: type[F], mark: int = 0) -> list[F]:
        """Those of one kind that came after there were so many of any."""
        return [one.fact for one in self._heard[mark:] if isinstance(one.fact, kind)]


@contextmanager
def hearing(device: DeviceControl) -> Iterator[HeardFacts]:
    """Everything that happens at a device inside the block, details too."""
    heard = HeardFacts()
    device.subscribe(heard.hear, details=True)
    try:
        yield heard
    finally:
        device.unsubscribe(heard.hear)
