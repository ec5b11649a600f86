"""What of a guest's answer cannot be."""

from __future__ import annotations

import pytest

from ballonet.autopilot.reading import Reading, Refusal, read
from ballonet.autopilot.sample import VmSample

MIB = 1 << 20
KEPT = 400 * MIB
SLACK = 4 * MIB
FINE = {"avail": 200 * MIB, "memfree": 150 * MIB, "memtot": 390 * MIB, "caches": 60 * MIB}


def answer(statistics: dict[str, int], held: int | None = None) -> Reading | Refusal:
    sample = VmSample("a", 512 * MIB, KEPT, None, held, statistics)
    return read(sample, KEPT, SLACK, 64 * MIB)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"avail": KEPT + SLACK + 1}, Refusal.TOO_MUCH),
        ({"avail": 395 * MIB}, Refusal.TOO_MUCH),  # more than all that its kernel has
        ({"memtot": 600 * MIB}, Refusal.TOO_MUCH),
        ({"memfree": KEPT + SLACK + 1}, Refusal.TOO_MUCH),
        ({"avail": -1}, Refusal.NEGATIVE),
        ({"caches": -1}, Refusal.NEGATIVE),
        ({"majflt": -1}, Refusal.NEGATIVE),
    ],
)
def test_what_cannot_be_is_refused_as_a_whole(change: dict[str, int], refusal: Refusal) -> None:
    assert answer(FINE | change) is refusal


def test_memory_that_the_host_does_not_hold_is_not_in_use() -> None:
    """Of 390 MiB that its kernel has, 290 were never touched: no fewer are available."""
    assert answer(FINE | {"avail": 200 * MIB}, held=110 * MIB) is Refusal.TOO_LITTLE
    assert isinstance(answer(FINE | {"avail": 230 * MIB}, held=110 * MIB), Reading)
    assert isinstance(answer(FINE | {"avail": 0}, held=400 * MIB), Reading)


def test_an_answer_without_memory_is_refused() -> None:
    assert answer({"swap_in": 4}) is Refusal.EMPTY


def test_windows_is_believed_its_free_memory_and_its_caches() -> None:
    said = answer({"memfree": 100 * MIB, "caches": 30 * MIB})
    assert isinstance(said, Reading)
    assert said.available_bytes == 130 * MIB


def test_a_balloon_in_memtotal_is_no_lie() -> None:
    assert isinstance(answer(FINE | {"memtot": 502 * MIB}), Reading)


def test_unknown_statistics_are_passed_over() -> None:
    said = answer(FINE | {"new": -7, "majflt": 5})
    assert isinstance(said, Reading)
    assert said.counters == {"majflt": 5}
