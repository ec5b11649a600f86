"""Bytes that become dirty in a second."""

from __future__ import annotations

import numpy as np
import pytest

from ballonet.memory.runs import PageRuns
from ballonet.migration.dirty_rate import dirty_bytes_per_s


@pytest.mark.parametrize(
    ("pages", "since_ns", "now_ns", "rate"),
    [
        ([], 0, 1_000_000_000, 0),
        ([256], 5, 1_000_000_005, 1 << 20),
        ([128, 128], 0, 100_000_000, 10 << 20),
        ([1], 0, 3_000_000_000, 4096 // 3),
    ],
)
def test_the_rate_is_of_distinct_pages_over_the_time_between_two_readings(
    pages: list[int], since_ns: int, now_ns: int, rate: int
) -> None:
    counts = np.array(pages, np.int64)
    written = PageRuns(np.arange(counts.size) * 1000, counts)
    assert dirty_bytes_per_s(written, since_ns, now_ns) == rate
