"""Reasons to keep memory nest, and what they kept is counted."""

import numpy as np
import pytest

from ballonet.device.counters import Counters
from ballonet.device.effects import Discard
from ballonet.device.inhibition import Inhibition, InhibitReason
from ballonet.errors import UsageError
from ballonet.memory.runs import Ranges

RANGES = Ranges(0, np.arange(0, 3 * 8192, 8192), np.full(3, 4096))


def test_memory_goes_unless_there_is_a_reason_and_every_reason_counts() -> None:
    counters = Counters()
    gate = Inhibition(counters)
    assert [effect.ranges.total_bytes for effect in gate.discard([RANGES])] == [3 * 4096]
    gate.inhibit(InhibitReason.PINNED)
    gate.inhibit(InhibitReason.PINNED)
    gate.inhibit(InhibitReason.SNAPSHOT)
    assert gate.reasons == (InhibitReason.PINNED, InhibitReason.SNAPSHOT)
    for lifted in (InhibitReason.PINNED, InhibitReason.SNAPSHOT, InhibitReason.PINNED):
        assert list(gate.discard([RANGES])) == []
        gate.lift(lifted)
    assert not gate.reasons
    assert counters.withheld_bytes == 3 * 3 * 4096
    assert len(list(gate.discard([RANGES]))) == 1


def test_a_reason_that_arises_midway_keeps_the_rest() -> None:
    counters = Counters()
    gate = Inhibition(counters)
    many = Ranges(0, np.arange(0, 1000 * 8192, 8192), np.full(1000, 4096))
    work = gate.discard([many])
    first = next(work)
    assert isinstance(first, Discard)
    gate.inhibit(InhibitReason.POSTCOPY)
    assert list(work) == []
    assert first.ranges.total_bytes + counters.withheld_bytes == many.total_bytes


def test_lifting_what_was_not_inhibited_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(UsageError, match="pinned"):
        Inhibition(Counters()).lift(InhibitReason.PINNED)
