"""What the experiments on hints read out of configurations, traces and steps."""

from __future__ import annotations

import pytest

from ballonet.balloon.facts import ConfigRead
from ballonet.lab.experiments.dirty_not_lost import has_rounds_between_logs
from ballonet.lab.experiments.hint_order import in_order
from ballonet.lab.experiments.postcopy_hints import kicks_of
from ballonet.lab.hint_watch import HintedBlock, id_read

ID = bytes([1, 0, 0, 0x80])


@pytest.mark.parametrize(
    ("offset", "data", "found"),
    [
        (0, bytes(8) + ID, 0x8000_0001),
        (0, bytes(8) + ID + b"\xaa" * 4, 0x8000_0001),
        (8, ID, 0x8000_0001),
        (4, bytes(4) + ID, 0x8000_0001),
        (0, bytes(8), None),
        (0, bytes(8) + ID[:3], None),
        (12, ID, None),
    ],
)
def test_the_id_that_a_driver_reads(offset: int, data: bytes, found: int | None) -> None:
    assert id_read(ConfigRead(offset, data)) == found


TRACE = """\
virtio_queue_notify vdev 0x55d0 n 2 vq 0x7f00
1234@1700000000.123456:virtio_queue_notify vdev 0x55d0 n 3 vq 0x7f08
virtio_queue_notify vdev 0x55d0 n 3 vq 0x7f08
virtio_notify vdev 0x55d0 vq 0x7f08
"""


def test_kicks_of_a_queue() -> None:
    assert [kicks_of(TRACE, queue) for queue in range(5)] == [0, 0, 1, 2, 0]


SEES = "every write is seen from now on"
BEGINS, STOPPED = "hint round 0x80000001 begins", "hint round stopped: STOP is shown"
LOG, OTHER_LOG = "guest's log read and begun anew: 3 pages", "device's log read and begun anew"
IN_ORDER = [SEES, BEGINS, "9 pages hinted", "7 pages sent", STOPPED, LOG, OTHER_LOG, "4 pages sent"]


def test_rounds_between_logs() -> None:
    assert has_rounds_between_logs(IN_ORDER)
    assert has_rounds_between_logs([*IN_ORDER, BEGINS, STOPPED, LOG])


@pytest.mark.parametrize(
    "steps",
    [
        [SEES, LOG],
        [BEGINS, SEES, STOPPED, LOG],
        [SEES, BEGINS, LOG, STOPPED],
        [SEES, BEGINS, STOPPED, BEGINS, STOPPED, LOG],
        [SEES, BEGINS, BEGINS, STOPPED, LOG],
        [SEES, BEGINS],
    ],
)
def test_a_round_that_reaches_over_a_log_is_noticed(steps: list[str]) -> None:
    assert not has_rounds_between_logs(steps)


def test_blocks_that_follow_each_other_are_told_together() -> None:
    blocks = [HintedBlock(first, 1024) for first in (8192, 9216, 0, 4096, 3072)]
    assert in_order(blocks) == [
        ("0x2000", "0x27ff", 2),
        ("0x0", "0x3ff", 1),
        ("0x1000", "0x13ff", 1),
        ("0xc00", "0xfff", 1),
    ]
    assert in_order([]) == []
