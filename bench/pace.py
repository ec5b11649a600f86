"""What a page costs the device when its guest is slow: a message now and then.

An emulated guest behind QEMU sends a message every 7 ms, and with each it reads its target and
writes what it has. A device that takes each of these silences for the end sorts and drops every
message alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from ballonet.conform.device.session import DeviceSession
from bench.device_process import DeviceProcess, Giver, cpu_seconds
from bench.report import Figure

__all__ = ["measure"]

ROUNDS: Final = 3
_PACES_MS: Final = (0.2, 1.0, 7.0, 20.0)
_MESSAGE: Final = 256
_MESSAGES: Final = 128
_NUM_PAGES, _ACTUAL = 0, 4


def measure() -> Iterator[Figure]:
    """Inflate and deflate at each pace, on memfd, contiguous page numbers."""
    for pace_ms in _PACES_MS:
        inflate: list[float] = []
        deflate: list[float] = []
        for _ in range(ROUNDS):
            with DeviceProcess() as device, device.session() as giver:
                giver.fill()
                inflate.append(_per_page(giver, device.pid, pace_ms, gives=True))
                deflate.append(_per_page(giver, device.pid, pace_ms, gives=False))
        name = f"g. a message every {pace_ms:g} ms: processor time of the device for a page"
        yield Figure(f"{name}, inflate", inflate, "µs", 3.0)
        yield Figure(f"{name}, deflate", deflate, "µs", 1.5)


def _per_page(giver: Giver, pid: int, pace_ms: float, *, gives: bool) -> float:
    session, pfns = giver.session, giver.data_pages
    before_s = cpu_seconds(pid)
    next_s = time.monotonic()
    for number in range(_MESSAGES):
        part = pfns[number * _MESSAGE : (number + 1) * _MESSAGE].tolist()
        if gives:
            session.inflate(part)
        else:
            session.deflate(part)
        _access_config(session, (number + 1) * _MESSAGE if gives else 0)
        next_s += pace_ms / 1000
        time.sleep(max(0.0, next_s - time.monotonic()))
    if gives:
        giver.wait_until_back(_MESSAGES * _MESSAGE)
    return (cpu_seconds(pid) - before_s) / (_MESSAGES * _MESSAGE) * 1e6


def _access_config(session: DeviceSession, actual_pages: int) -> None:
    """As Linux does with each message."""
    session.transport.read_config(_NUM_PAGES, 4)
    session.transport.write_config(_ACTUAL, actual_pages.to_bytes(4, "little"))
