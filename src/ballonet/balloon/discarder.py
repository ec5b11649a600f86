"""The gate that every discard goes through: held off while that is inhibited, counted, told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ballonet.balloon.clock import Clock
from ballonet.balloon.counters import Counters
from ballonet.balloon.facts import Discarded, DiscardFailed, Observers
from ballonet.balloon.inhibition import Inhibition
from ballonet.balloon.memory import BalloonMemory
from ballonet.memory.runs import Ranges

__all__ = ["Discarder"]

#: Ranges dropped without a look at everything else, about a millisecond of the kernel's work.
PIECE_RANGES: Final = 256


class Discarder:
    """Drops memory of one guest, in pieces short enough not to keep others waiting."""

    def __init__(
        self, inhibition: Inhibition, counters: Counters, observers: Observers, clock: Clock
    ) -> None:
        self._inhibition, self._counters = inhibition, counters
        self._observers, self._clock = observers, clock

    def discard(self, memory: BalloonMemory, found: Iterable[Ranges]) -> Iterator[None]:
        """Drop these ranges; anything else may be done whenever it yields."""
        for ranges in found:
            for piece in ranges.slices(PIECE_RANGES):
                self.discard_piece(memory, piece)
                yield

    def discard_piece(self, memory: BalloonMemory, ranges: Ranges) -> None:
        """Drop at most PIECE_RANGES ranges now, unless that is inhibited."""
        if self._inhibition.reasons:
            self._counters.skipped_inhibited_bytes += ranges.total_bytes
            return
        began_ns = self._clock.now_ns()
        result = memory.discard(ranges)
        self._counters.discard_calls += result.calls
        self._counters.discarded_bytes += result.discarded_bytes
        self._counters.failed_discard_bytes += result.failed_bytes
        self._counters.split_blocks += result.split_blocks
        if result.error is not None:
            self._observers.tell(DiscardFailed(result.error.strerror or str(result.error)))
        if self._observers.want_details:
            detail = Discarded(len(ranges.offsets), result.discarded_bytes, began_ns)
            self._observers.tell_detail(detail)
