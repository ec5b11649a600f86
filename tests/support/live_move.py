"""A history whose guest moves while it goes on: the passes of a migration, with a real tracker.

Guest and device write through mappings of their own, and only the guest's is tracked, so what the
device writes is known from its log alone.  Both go on between any two steps of the migration, and
between the pages of each piece.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from tests.support.moving import come_to_rest
from tests.support.pair import Pair

from ballonet.balloon.facts import PagesHinted
from ballonet.errors import MigrationError
from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.migration.hint_filter import HintFilter
from ballonet.migration.passes import Passes
from ballonet.migration.settings import MigrationSettings, OnTimeout
from ballonet.migration.tracking import GuestSideTracking, WriteTracker
from ballonet.virtio.features import Feature
from ballonet.virtio.ring.packed import packed_area_bytes
from ballonet.virtio.ring.split import split_area_bytes

PAGE = 4096
PAGE_NS = 1_000  # to send one
SETTINGS = MigrationSettings(
    downtime_ns=50 * PAGE_NS, timeout_ns=60_000_000_000, on_timeout=OnTimeout.FORCE
)


class Moving(Protocol):
    """A history, as far as a migration knows it."""

    pair: Pair
    random: np.random.Generator

    def go_on(self) -> None:
        """A few steps of guest and device, and perhaps something new for them to do."""
        ...


class LiveMove:
    """One migration of a history's guest; a `Source`, and a `HintSource`."""

    def __init__(self, history: Moving, fails_at: int = -1) -> None:
        self.history = history
        self.copy = memoryview(bytearray(len(history.pair.memory)))
        self._tracking = GuestSideTracking(history.pair.memory)
        self._tracker = WriteTracker(os.getpid(), self._tracking.address, self._tracking.size)
        self._heard = 0  # of the pair's events
        self._is_stopped = False
        self._steps, self._fails_at = 0, fails_at
        self.passes = self._make_passes()

    def _make_passes(self) -> Passes:
        """The migration, with hints where the driver gives them."""
        pair = self.pair
        gives_hints = bool(pair.driver.negotiated & Feature.FREE_PAGE_HINT)
        hints = HintFilter(self, sees_writes=self._tracker.sees_writes) if gives_hints else None
        memory = np.ones(len(pair.memory) // PAGE, np.bool_)
        return Passes(self, memory, SETTINGS, pair.clock, hints=hints)

    @property
    def pair(self) -> Pair:
        return self.history.pair

    def start_tracking(self) -> None:
        self._step()
        list(self._tracking.start())
        self._tracker.start()

    def stop_tracking(self) -> None:
        self._tracker.close()
        self._tracking.close()

    def read_guest_log(self) -> PageRuns:
        self._step()
        return self._tracker.take()

    def read_device_log(self) -> PageRuns:
        """All that the device may have written: its rings, always."""
        self._step()
        pair = self.pair
        is_packed = pair.driver.negotiated & Feature.RING_PACKED
        pages: set[int] = set()
        for queue in pair.driver.queues.values():
            place, size = queue.ring.place, queue.ring.size
            lengths = packed_area_bytes(size) if is_packed else split_area_bytes(size)
            for gpa, length in zip(place, lengths, strict=True):
                pages.update(range(gpa // PAGE, (gpa + length - 1) // PAGE + 1))
        return merge_pfns(np.array(sorted(pages), np.uint64))

    def send(self, runs: PageRuns) -> int:
        self._step()
        memory = self.pair.memory
        for first, pages in zip(runs.first_pfns.tolist(), runs.pages.tolist(), strict=True):
            for at in range(first, first + pages, 64):
                end = min(first + pages, at + 64)
                self.copy[at * PAGE : end * PAGE] = memory[at * PAGE : end * PAGE]
                self.pair.clock.advance_ns((end - at) * PAGE_NS)
                self._go_on(0.05)
        return runs.total_pages * PAGE

    def pause(self, ns: int) -> None:
        self.pair.clock.advance_ns(ns)

    def throttle(self, percent: int) -> None:
        """The interleaving is random anyway."""

    def stop_guest(self) -> None:
        self._step()
        if not self.pair.driver.queues or not come_to_rest(self.pair):
            raise MigrationError("the guest does not come to rest")
        self.pair.stop_device()
        self._is_stopped = True

    def resume_guest(self) -> None:
        pair = self.pair
        pair.scheduler.thaw()
        if self._is_stopped:
            self._is_stopped = False
            pair.transport.reconnect()
            pair.driver.reconnected()
            for queue in pair.driver.queues.values():
                pair.driver.called(queue.number)

    def send_holes(self) -> None:
        """The balloon's pages are anything at the destination."""

    def send_checksums(self, runs: PageRuns) -> None:
        """`pages_that_differ` compares all of them."""

    def send_state(self) -> None:
        """It is read when the guest is there."""
        self._step()

    def commit(self) -> None:
        self._step()

    def begin(self) -> int:
        self._step()
        self._heard = len(self.pair.events)
        number = self.pair.device.begin_hint_round(600.0)
        return -1 if number is None else number

    def take(self, wait_ns: int) -> Iterator[tuple[int, PageRuns]]:
        for _ in range(20 if wait_ns else 1):
            self._step()
        heard, self._heard = self.pair.events[self._heard :], len(self.pair.events)
        return ((one.cmd_id, one.runs) for one in heard if isinstance(one, PagesHinted))

    def stop(self) -> None:
        self._step()
        self.pair.device.hint_round.stop(600.0)

    def done(self) -> None:
        self.pair.device.hint_round.done()

    def _step(self) -> None:
        self._go_on(0.8)
        self._steps += 1
        if self._steps == self._fails_at:
            raise MigrationError("the channel broke")

    def _go_on(self, share: float) -> None:
        if not self._is_stopped and self.history.random.random() < share:
            self.history.go_on()


def pages_that_differ(move: LiveMove) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Pages of 4 KiB whose copy is not what the stopped guest has."""
    here, there = (
        np.frombuffer(one, np.uint64).reshape(-1, PAGE // 8)
        for one in (move.pair.memory, move.copy)
    )
    return np.flatnonzero((here != there).any(axis=1))
