"""What QEMU writes down of itself with `-trace` and `-msg timestamp=on`.

    4711@1700000000.123456:virtio_balloon_to_target balloon target: 0x10000000 num_pages: 0

Thread, time of day, event, text.  Other lines of a log are left out.
Source: QEMU scripts/tracetool/backend/log.py, hw/virtio/trace-events.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["QemuEvent", "parse_qemu_log"]

_LINE: Final = re.compile(
    r"(?P<thread>\d+)@(?P<seconds>\d+)\.(?P<micros>\d{6}):(?P<name>\w+) ?(?P<text>.*)"
)


@dataclass(frozen=True, slots=True)
class QemuEvent:
    """One thing that QEMU did; `wall_ns` since 1970."""

    thread: int
    wall_ns: int
    name: str
    text: str


def parse_qemu_log(text: str) -> list[QemuEvent]:
    """What a log says, in its order."""
    return [
        QemuEvent(
            int(found["thread"]),
            int(found["seconds"]) * 1_000_000_000 + int(found["micros"]) * 1_000,
            found["name"],
            found["text"],
        )
        for found in map(_LINE.fullmatch, text.splitlines())
        if found is not None
    ]
