"""A driver's writes to registers, read from QEMU's trace."""

from __future__ import annotations

from ballonet.lab.register_writes import (
    QueueEnabled,
    RegisterWrite,
    queues_enabled,
    register_writes,
)

COMMON = "virtio-pci-common-virtio-balloon"
TRACE = f"""\
memory_region_ops_write cpu 0 mr 0x56 addr 0xcf8 value 0x80000000 size 4 name 'pci-conf-idx'
123@1.5:memory_region_ops_write cpu 0 mr 0x5632 addr 0xfebf0014 value 0x0 size 1 name '{COMMON}'
memory_region_ops_write cpu -1 mr 0x5632 addr 0xfebf001c value 0x1 size 2 name '{COMMON}'
memory_region_ops_write cpu 0 mr 0x77 addr 0xfebf201c value 0x1 size 2 name 'virtio-pci-device'
memory_region_ops_read cpu 0 mr 0x5632 addr 0xfebf001c value 0x1 size 2 name '{COMMON}'
cut short: memory_region_ops_write cpu 0 mr 0x56
"""


def test_writes_to_a_region_are_found_by_its_name() -> None:
    assert list(register_writes(TRACE.splitlines(), COMMON)) == [
        RegisterWrite(COMMON, 20, 0, 1),
        RegisterWrite(COMMON, 28, 1, 2),
    ]


def writes(*pairs: tuple[int, int]) -> list[RegisterWrite]:
    return [RegisterWrite(COMMON, offset, value, 4) for offset, value in pairs]


def test_a_queue_enabled_before_version_1_is_told_from_one_enabled_after() -> None:
    accepted = ((8, 0), (12, 0x10000001), (8, 1), (12, 1))
    enabled = writes((22, 1), (28, 1), *accepted, (22, 2), (28, 1), (28, 0))
    assert list(queues_enabled(enabled)) == [QueueEnabled(1, False), QueueEnabled(2, True)]


def test_other_bits_are_not_version_1_and_a_reset_forgets_it() -> None:
    assert list(queues_enabled(writes((8, 0), (12, 1), (8, 1), (12, 2), (28, 1)))) == [
        QueueEnabled(0, False)
    ]
    assert list(queues_enabled(writes((8, 1), (12, 1), (20, 15), (20, 0), (28, 1)))) == [
        QueueEnabled(0, False)
    ]
