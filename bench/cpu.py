"""Processor time of the device for each page given: ours over QEMU's.

The same driver, the same messages, the same kind of memory. QEMU's process also serves the
protocol by which it is driven, a line for each kick; ours looks for the next message all the time
that the driver, a program in Python, needs to send it: with one message at a time that is most of
what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ballonet.conform.device.qemu_rig import QemuRig
from ballonet.guests.qtest_machine import QtestMachine
from ballonet.virtio.features import Feature
from bench.device_process import FILLED, DeviceProcess, Giver, cpu_seconds
from bench.report import Ratio

__all__ = ["measure"]

ROUNDS = 5
_PAGES = 100_000


class _LargeQemuRig(QemuRig):
    memory_bytes = 1 << 30


@contextmanager
def _qemu() -> Iterator[tuple[Giver, QtestMachine]]:
    bench = _LargeQemuRig()
    with bench.session(Feature.EVENT_IDX | Feature.VERSION_1 | Feature.STATS_VQ) as session:
        yield Giver(session), bench.machine


def measure() -> Iterator[Ratio]:
    """Contiguous and random page numbers, on memfd memory."""
    yield _compare("contiguous", 1, 0.25)
    yield _compare("random", 1, 0.85)
    yield _compare("contiguous", FILLED, None)
    yield _compare("random", FILLED, None)


def _compare(name: str, at_once: int, goal: float | None) -> Ratio:
    random = np.random.default_rng(2)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        with DeviceProcess() as device, device.session() as giver:
            ours.append(_per_page(giver, device.pid, _pages(giver, name, random), at_once))
        with _qemu() as (giver, machine):
            theirs.append(_per_page(giver, machine.pid, _pages(giver, name, random), at_once))
    how = "one message at a time, as Linux sends" if at_once == 1 else "the ring kept full"
    what = f"c. processor time of the device for a page, {name} page numbers, memfd, {how}"
    return Ratio(what, "ballonet", "QEMU", ours, theirs, unit="µs", goal=goal)


def _pages(giver: Giver, name: str, random: np.random.Generator) -> NDArray[np.int64]:
    if name == "contiguous":
        return giver.data_pages[:_PAGES]
    return random.permutation(giver.data_pages)[:_PAGES]


def _per_page(giver: Giver, pid: int, pfns: NDArray[np.int64], at_once: int) -> float:
    giver.fill()
    before = cpu_seconds(pid)
    giver.inflate(pfns, at_once=at_once)
    giver.wait_until_back(pfns.size)
    return (cpu_seconds(pid) - before) / pfns.size * 1e6
