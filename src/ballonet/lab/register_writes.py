"""What drivers write to the registers of a virtio device on PCI, read from QEMU's trace of it.

QEMU's trace event `memory_region_ops_write` has a line for every write to a register:

    memory_region_ops_write cpu 0 mr 0x55... addr 0xfebf0014 value 0x1 size 1 name 'virtio-pci-...'

Source: QEMU system/memory.c, trace-events; VIRTIO 1.4 4.1.4.3 (virtio_pci_common_cfg).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = [
    "TRACE_ARGUMENTS",
    "QueueEnabled",
    "RegisterWrite",
    "queues_enabled",
    "register_writes",
]

#: Of QEMU, where {} stands for the directory in which the file `writes` is to be.
TRACE_ARGUMENTS: Final = ("-trace", "memory_region_ops_write", "-D", "{}/writes")
_LINE: Final = re.compile(
    r"memory_region_ops_write cpu -?\d+ mr \S+ addr (0x[0-9a-f]+) value (0x[0-9a-f]+)"
    r" size (\d+) name '([^']*)'"
)
#: Each structure begins at a page of its own.
_OFFSET_MASK: Final = 0xFFF
_FEATURE_SELECT, _FEATURE, _STATUS = 8, 12, 20
_QUEUE_SELECT, _QUEUE_ENABLE = 22, 28
_HIGH_WORD: Final = 1
_VERSION_1_IN_IT: Final = 1


@dataclass(frozen=True, slots=True)
class RegisterWrite:
    """One write; `offset` from the beginning of the structure."""

    region: str
    offset: int
    value: int
    size: int  #: in bytes


@dataclass(frozen=True, slots=True)
class QueueEnabled:
    """A driver lets the device use a queue."""

    queue: int
    has_version_1: bool  #: the driver had accepted VERSION_1 before


def register_writes(trace: Iterable[str], region: str) -> Iterator[RegisterWrite]:
    """The writes to one region, in order; it is named as in QEMU's `info mtree`."""
    for line in trace:
        found = _LINE.search(line)
        if found is not None and found[4] == region:
            offset = int(found[1], 16) & _OFFSET_MASK
            yield RegisterWrite(region, offset, int(found[2], 16), int(found[3]))


def queues_enabled(writes: Iterable[RegisterWrite]) -> Iterator[QueueEnabled]:
    """Of the writes to a device's common structure those that enable a queue."""
    word = queue = 0
    has_version_1 = False
    for one in writes:
        if one.offset == _STATUS and one.value == 0:
            has_version_1 = False
        elif one.offset == _FEATURE_SELECT:
            word = one.value
        elif one.offset == _FEATURE and word == _HIGH_WORD:
            has_version_1 = bool(one.value & _VERSION_1_IN_IT)
        elif one.offset == _QUEUE_SELECT:
            queue = one.value
        elif one.offset == _QUEUE_ENABLE and one.value:
            yield QueueEnabled(queue, has_version_1)
