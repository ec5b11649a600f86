"""How long a guest takes to answer for its statistics, while its balloon moves and while it rests.

A real kernel; the time runs from the question to the answer in the caller's hands.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np

from ballonet.device.balloon import BalloonSettings
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.linux import LinuxGuestSettings
from bench.inflate import MEMORY_BYTES, PAGES
from bench.report import Ratio

__all__ = ["measure"]

ROUNDS: Final = 5
_QUESTIONS: Final = 100
_TIMEOUT_S: Final = 20.0


def measure() -> Iterator[Ratio]:
    """A hundred questions in each round."""
    load: list[list[float]] = []
    idle: list[list[float]] = []
    guest = LinuxGuestSettings(MEMORY_BYTES)
    with BalloonedGuest(guest, BalloonSettings()) as machine:
        _ask(machine)
        for _ in range(ROUNDS):
            idle.append(_ask(machine))
            with _moving(machine):
                load.append(_ask(machine))
    for share in (50, 99):
        yield Ratio(
            f"e. statistics, from question to answer, p{share} of {_QUESTIONS}",
            "while the balloon goes from 0 to 800 MB and back",
            "while it rests",
            [float(np.percentile(times, share)) * 1e3 for times in load],
            [float(np.percentile(times, share)) * 1e3 for times in idle],
            unit="ms",
        )


def _ask(machine: BalloonedGuest) -> list[float]:
    """Seconds of each answer."""
    times = []
    for _ in range(_QUESTIONS):
        begun_s = time.monotonic()
        machine.device.stats.read(_TIMEOUT_S)
        times.append(time.monotonic() - begun_s)
    return times


@contextmanager
def _moving(machine: BalloonedGuest) -> Iterator[None]:
    """The balloon never rests inside the block, and is empty after it."""
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            machine.resize(PAGES, stalled_after_s=20)
            machine.resize(0, stalled_after_s=20)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
