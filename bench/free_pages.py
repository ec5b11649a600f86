"""Free pages that a real guest names: reports, which are dropped, and hints, which are noted.

Processor time is that of the device's thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Final

from ballonet.balloon.facts import Fact, PagesReported
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.ballooned import BalloonedGuest
from ballonet.guests.hinting import run_hint_round
from ballonet.guests.linux import LinuxGuestSettings
from ballonet.virtio.features import DEFAULT_OFFER, Feature
from bench.inflate import MEMORY_BYTES, touch_all
from bench.report import Figure

__all__ = ["device_cpu_seconds", "measure"]

ROUNDS: Final = 5
_GIB: Final = 1 << 30
_QUIET_S: Final = 3.0
_TIMEOUT_S: Final = 30.0


def device_cpu_seconds() -> float:
    """Processor time of the thread that serves a device of this process. Raises: GuestError."""
    for thread in threading.enumerate():
        if thread.name == "ballonet-queues" and thread.ident is not None:
            return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    raise GuestError("no device runs in this process")


def measure() -> Iterator[Figure]:
    """A guest of 1 GiB whose memory was touched and is free again."""
    offered = DEFAULT_OFFER | Feature.PAGE_REPORTING
    guest = LinuxGuestSettings(MEMORY_BYTES)
    with BalloonedGuest(guest, BalloonSettings(offered)) as machine:
        reports = [_report(machine) for _ in range(ROUNDS)]
    with BalloonedGuest(guest, BalloonSettings()) as machine:
        hints = [_hint(machine) for _ in range(ROUNDS)]
    yield Figure(
        "d. reporting: processor time for all free memory of a guest of 1 GiB",
        [cpu_s for cpu_s, _, _ in reports],
        "s",
        goal=0.5,
    )
    yield Figure(
        "d. reporting: processor time for 1 GiB",
        [cpu_s * _GIB / size for cpu_s, size, _ in reports],
        "s",
    )
    yield Figure(
        "d. reporting: speed, as the guest reports in pieces, seconds apart",
        [size / seconds / _GIB for _, size, seconds in reports],
        "GiB/s",
    )
    yield Figure(
        "d. hint round over 1 GiB: processor time",
        [cpu_s * 1e3 for cpu_s, _, _ in hints],
        "ms",
        goal=20,
    )
    yield Figure(
        "d. hint round: speed", [size / seconds / _GIB for _, size, seconds in hints], "GiB/s"
    )


class _Reports:
    """What was reported, and when first and last."""

    def __init__(self) -> None:
        self.size = 0
        self.first_s = self.last_s = 0.0

    def observe(self, fact: Fact) -> None:
        if isinstance(fact, PagesReported):
            self.last_s = time.monotonic()
            self.first_s = self.first_s or self.last_s
            self.size += fact.reported_bytes


def _report(machine: BalloonedGuest) -> tuple[float, int, float]:
    """Processor time, bytes, and seconds of all that is reported after memory became free."""
    touch_all(machine)
    seen, before_s = _Reports(), device_cpu_seconds()
    machine.device.subscribe(seen.observe)
    end_s = time.monotonic() + _TIMEOUT_S
    while not seen.size or time.monotonic() < seen.last_s + _QUIET_S:
        if time.monotonic() > end_s:
            raise GuestError("the guest reports no free memory, or without end")
        time.sleep(0.05)
    machine.device.unsubscribe(seen.observe)
    return device_cpu_seconds() - before_s, seen.size, max(seen.last_s - seen.first_s, 1e-3)


def _hint(machine: BalloonedGuest) -> tuple[float, int, float]:
    """Processor time, bytes, and seconds of a round."""
    touch_all(machine)
    before_s = device_cpu_seconds()
    result = run_hint_round(machine.device)
    return device_cpu_seconds() - before_s, result.hinted_bytes, result.seconds
