"""Seeing a guest's writes: what a reading costs, and what the guest pays for being seen.

Guest and reader are one process here, which costs the same as two; time is processor time of this
thread, most of it the kernel's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.memory.shared_file import SharedFile
from ballonet.migration.tracking import GuestSideTracking, WriteTracker
from ballonet.units import BALLOON_PAGE_BYTES, bytes_to_pages
from bench.report import Figure, Ratio

__all__ = ["measure"]

ROUNDS: Final = 5
_MEMORY_BYTES: Final = 1 << 30
_PAGES: Final = bytes_to_pages(_MEMORY_BYTES)
_SHARES: Final = (1, 10, 50, 100)  # percent

Bytes = NDArray[np.uint8]


def measure() -> Iterator[Ratio | Figure]:
    """A guest of 1 GiB, all of it in use."""
    with _guest() as (first_bytes, guest):
        yield Figure(
            "tracking: protecting 1 GiB for the first time",
            [_protect(guest) for _ in range(ROUNDS)],
            "ms",
        )
        _protect(guest, keep=True)
        tracker = WriteTracker(os.getpid(), guest.address, guest.size)
        tracker.start()
        idle = [_read(tracker) for _ in range(ROUNDS)]
        yield Figure("tracking: reading 1 GiB of which nothing was written", idle, "ms", goal=5)
        for share in _SHARES:
            yield Figure(
                f"tracking: reading 1 GiB of which {share} % was written, at random",
                [_read_written(tracker, first_bytes, share, seed) for seed in range(ROUNDS)],
                "ms",
            )
        yield _first_writes(tracker, first_bytes)
        tracker.close()


@contextmanager
def _guest() -> Iterator[tuple[Bytes, GuestSideTracking]]:
    """The first byte of each page, all of them there, and its process's side."""
    with SharedFile("ballonet-bench", _MEMORY_BYTES) as memory:
        first_bytes = np.frombuffer(memory.view, np.uint8)[::BALLOON_PAGE_BYTES]
        first_bytes[:] = 1
        guest = GuestSideTracking(memory.view)
        try:
            yield first_bytes, guest
        finally:
            guest.close()


def _milliseconds(act: Callable[[], object]) -> float:
    begun_s = time.thread_time()
    act()
    return (time.thread_time() - begun_s) * 1e3


def _protect(guest: GuestSideTracking, *, keep: bool = False) -> float:
    spent_ms = _milliseconds(lambda: list(guest.start()))
    if not keep:
        guest.close()
    return spent_ms


def _read(tracker: WriteTracker) -> float:
    return _milliseconds(tracker.take)


def _read_written(tracker: WriteTracker, first_bytes: Bytes, share: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    first_bytes[random.permutation(_PAGES)[: _PAGES * share // 100]] = seed
    return _read(tracker)


def _first_writes(tracker: WriteTracker, first_bytes: Bytes) -> Ratio:
    """Each page once while it is protected, and once more."""
    order = np.random.default_rng(1).permutation(_PAGES)
    samples: tuple[list[float], list[float]] = [], []
    for number in range(ROUNDS):
        tracker.take()
        for each in samples:
            begun_s = time.thread_time()
            first_bytes[order] = number
            each.append((time.thread_time() - begun_s) / _PAGES * 1e6)
    return Ratio(
        "tracking: a guest's write to a page, at random",
        "the first since it was read",
        "any other",
        *samples,
        unit="µs",
    )
