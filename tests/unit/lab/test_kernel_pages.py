"""Which pages a Linux guest has in its balloon, and which free blocks it has."""

from __future__ import annotations

import base64
import gzip

import numpy as np

from ballonet.lab.kernel_pages import free_huge_blocks, offline_pfns, pages_in_balloon

OFFLINE, LRU = 1 << 23, 1 << 5
FLAGS = np.array([0, OFFLINE, LRU, OFFLINE | 1, 1 << 22, 1 << 24], "<u8").tobytes()


def test_pages_marked_offline_are_those_of_the_balloon() -> None:
    assert offline_pfns(FLAGS).tolist() == [1, 3]
    assert offline_pfns(b"").tolist() == []


def test_they_are_read_packed_because_there_is_a_number_for_each_page() -> None:
    asked: list[str] = []

    def check(command: str) -> str:
        asked.append(command)
        return base64.encodebytes(gzip.compress(FLAGS)).decode()

    assert pages_in_balloon(check).tolist() == [1, 3]
    assert "/proc/kpageflags" in asked[0]


def test_blocks_of_2_mib_and_more_are_counted_in_units_of_2_mib() -> None:
    buddyinfo = """\
Node 0, zone      DMA      1      1      0      0      1      1      1      0      1      1      3
Node 0, zone   Normal    216     55    189    101     84     38     37     27      5      0      2
"""
    assert free_huge_blocks(buddyinfo) == (1 + 2 * 3) + (0 + 2 * 2)
    assert free_huge_blocks("") == 0
