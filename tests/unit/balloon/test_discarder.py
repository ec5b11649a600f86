"""The gate of every discard: what it keeps is counted, and what goes wrong is told."""

import numpy as np
import pytest
from tests.support.clock import FakeClock

from ballonet.balloon.counters import Counters
from ballonet.balloon.discarder import PIECE_RANGES, Discarder
from ballonet.balloon.facts import Discarded, DiscardFailed, Fact, Observers
from ballonet.balloon.inhibition import Inhibition, InhibitReason
from ballonet.memory.regions import RegionTable
from ballonet.memory.runs import DiscardResult, Ranges

PAGE = 4096
THREE = Ranges(0, np.arange(0, 3 * 8192, 8192), np.full(3, PAGE))
MANY = Ranges(0, np.arange(0, 1000 * 8192, 8192), np.full(1000, PAGE))


class Memory:
    """Takes note of what is dropped; fails if it is told to."""

    table = RegionTable([])

    def __init__(self) -> None:
        self.dropped: list[Ranges] = []
        self.error: OSError | None = None

    def view(self, gpa: int, length: int) -> memoryview:
        raise NotImplementedError

    def discard(self, ranges: Ranges) -> DiscardResult:
        self.dropped.append(ranges)
        if self.error is not None:
            return DiscardResult(calls=1, failed_bytes=ranges.total_bytes, error=self.error)
        return DiscardResult(calls=1, discarded_bytes=ranges.total_bytes, split_blocks=2)


class Gate:
    def __init__(self, *, details: bool) -> None:
        self.inhibition, self.counters, self.memory = Inhibition(), Counters(), Memory()
        self.facts: list[Fact] = []
        observers = Observers()
        observers.add(self.facts.append, details=details)
        self.discarder = Discarder(self.inhibition, self.counters, observers, FakeClock())


@pytest.fixture
def gate() -> Gate:
    return Gate(details=True)


def test_memory_goes_unless_there_is_a_reason_to_keep_it(gate: Gate) -> None:
    gate.discarder.discard_piece(gate.memory, THREE)
    gate.inhibition.inhibit(InhibitReason.PINNED)
    gate.discarder.discard_piece(gate.memory, THREE)
    gate.inhibition.lift(InhibitReason.PINNED)
    gate.discarder.discard_piece(gate.memory, THREE)
    assert len(gate.memory.dropped) == 2
    counters = gate.counters
    assert (counters.skipped_inhibited_bytes, counters.discarded_bytes) == (3 * PAGE, 6 * PAGE)
    assert (counters.discard_calls, counters.split_blocks) == (2, 4)


def test_many_ranges_go_in_pieces_and_a_reason_that_arises_midway_keeps_the_rest(
    gate: Gate,
) -> None:
    work = gate.discarder.discard(gate.memory, [MANY])
    next(work)
    gate.inhibition.inhibit(InhibitReason.POSTCOPY)
    assert len(list(work)) == 3
    (dropped,) = gate.memory.dropped
    assert dropped.offsets.size == PIECE_RANGES
    assert dropped.total_bytes + gate.counters.skipped_inhibited_bytes == MANY.total_bytes


def test_what_the_system_refuses_is_counted_and_told(gate: Gate) -> None:
    gate.memory.error = OSError(28, "No space left on device")
    gate.discarder.discard_piece(gate.memory, THREE)
    assert gate.counters.failed_discard_bytes == 3 * PAGE
    assert DiscardFailed("No space left on device") in gate.facts


def test_each_discard_is_told_to_those_who_want_details_alone(gate: Gate) -> None:
    gate.discarder.discard_piece(gate.memory, THREE)
    assert gate.facts == [Discarded(3, 3 * PAGE, FakeClock().now_ns())]
    plain = Gate(details=False)
    plain.discarder.discard_piece(plain.memory, THREE)
    assert plain.facts == []
