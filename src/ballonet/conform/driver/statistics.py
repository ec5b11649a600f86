"""Checks of the statistics a driver sends."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Failed, Level, Suite
from ballonet.conform.driver.features import EVERYTHING
from ballonet.conform.driver.guests import DriverRig, GuestUnderTest
from ballonet.conform.driver.scripted_device import Message
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.stats import STATS, parse_stats

__all__ = ["SUITE"]

SUITE: Suite[DriverRig] = Suite()

_ENTRY_BYTES: Final = 10


def _samples(machine: GuestUnderTest, count: int) -> list[Message]:
    """At least so many buffers. Raises: Failed."""
    for _ in range(count):
        machine.device.stats.read(10)
    return machine.device.record.of(QueueRole.STATS)


@SUITE.check("G-S2", Level.MUST, "puts one buffer into the statistics queue at the start")
def first_buffer(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    if not machine.until(lambda: bool(machine.device.record.of(QueueRole.STATS))):
        raise Failed("none comes within 10 s")
    return f"{len(machine.device.record.of(QueueRole.STATS)[0].data)} bytes, unasked"


@SUITE.check("G-S4", Level.MUST, "fills a buffer with every statistic before it shows it")
def filled(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    sample = parse_stats(_samples(machine, 1)[0].data)
    if not sample.value("memtot") or sample.unknown:
        raise Failed(f"the first buffer holds {sample}")
    return ", ".join(sample.values)


@SUITE.check("G-S3", Level.MUST, "answers every question with a buffer, and asks for nothing more")
def answers(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    before = len(machine.device.record.of(QueueRole.STATS))
    after = len(_samples(machine, 5))
    if after - before != 5:
        raise Failed(f"{after - before} buffers came for 5 questions")
    return "5 questions, 5 buffers"


@SUITE.check("G-S5", Level.MUST, "a buffer is a whole number of entries")
def whole_entries(rig: DriverRig) -> str:
    sizes = {len(one.data) for one in _samples(rig.machine(EVERYTHING), 2)}
    if any(size % _ENTRY_BYTES or not size for size in sizes):
        raise Failed(f"buffers of {sizes} bytes")
    return f"{', '.join(str(size // _ENTRY_BYTES) for size in sizes)} entries"


@SUITE.check("G-S6", Level.MUST, "sends the same set of statistics every time")
def same_tags(rig: DriverRig) -> str:
    samples = [parse_stats(one.data) for one in _samples(rig.machine(EVERYTHING), 3)]
    sets = {frozenset(sample.values) for sample in samples}
    if len(sets) != 1:
        raise Failed(f"{len(sets)} different sets in {len(samples)} buffers")
    return f"{len(samples)} buffers, each with the same {len(samples[0].values)} of {len(STATS)}"
