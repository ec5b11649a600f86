"""Checks of how a driver lives with a device that is slow, silent or odd."""

from __future__ import annotations

import time
from typing import Final

from ballonet.conform.checks import Failed, Level, Suite
from ballonet.conform.driver.features import EVERYTHING
from ballonet.conform.driver.guests import MEMORY_BYTES, DriverRig
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.queues import QueueRole

__all__ = ["SUITE"]

SUITE: Suite[DriverRig] = Suite()

_SILENT_S: Final = 3.0
_ACTUAL_AT: Final = 4
_TRIES: Final = 3  # in vain, one after the other: it has given what it has
_WATCH_S: Final = 3.0
_ALL: Final = MEMORY_BYTES // BALLOON_PAGE_BYTES


@SUITE.check("M-1", Level.PITFALL, "a silent device: the guest lives, and goes on when it answers")
def silent_device(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    machine.resize(0)
    machine.device.hold(QueueRole.INFLATE, QueueRole.DEFLATE, QueueRole.REPORTING)
    try:
        machine.device.set_target(1000)
        end_s = time.monotonic() + _SILENT_S
        while time.monotonic() < end_s:
            if not machine.actions.is_alive(machine.guest):
                raise Failed("the guest does not answer while the device is silent")
            time.sleep(0.2)
    finally:
        machine.device.release()
    if not machine.resize(1000):
        raise Failed("it does not go on when the device answers")
    return f"{_SILENT_S:.0f} s without an answer; the guest worked, then the target was reached"


@SUITE.check("M-2", Level.PITFALL, "late interrupts: a used message without a call is waited for")
def late_calls(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    machine.resize(0)
    machine.device.mute_calls()
    try:
        machine.device.set_target(256)
        machine.until(lambda: bool(machine.device.record.of(QueueRole.INFLATE)))
        time.sleep(0.5)
    finally:
        machine.device.release()
    if not machine.resize(256):
        raise Failed("it does not go on after the late call")
    return "half a second late, and the target was reached"


@SUITE.check("M-3", Level.PITFALL, "early interrupts: calls for nothing do no harm")
def early_calls(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    for _ in range(50):
        machine.device.call_all()
    if not machine.resize(300) or not machine.resize(0):
        raise Failed("it does not follow the target any more")
    return "50 rounds of calls for nothing; then a target was reached"


@SUITE.check("M-4", Level.PITFALL, "configuration changes without a change do no harm")
def empty_changes(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    machine.resize(100)
    start, writes = len(machine.device.record.messages), len(machine.device.record.writes(4))
    for _ in range(100):
        machine.device.announce()
    time.sleep(0.5)
    moved = machine.device.record.of(QueueRole.INFLATE, start)
    moved += machine.device.record.of(QueueRole.DEFLATE, start)
    if moved or machine.actual_pages != 100:
        raise Failed(f"{len(moved)} messages came")
    return (
        f"100 of them: no message, {len(machine.device.record.writes(4)) - writes} writes of actual"
    )


@SUITE.check("M-5", Level.MUST, "many targets in a row: the last one counts")
def many_targets(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    for i in range(200):
        machine.device.set_target(i * 37 % 5000)
        time.sleep(0.001)
    if not machine.resize(1234):
        raise Failed(f"it ends at {machine.actual_pages}, not 1234")
    return "200 targets, and the last is reached"


@SUITE.check(
    "M-6", Level.PITFALL, "a target beyond its memory: it tries, neither too hard nor to death"
)
def beyond_memory(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    record = machine.device.record
    start = len(record.writes(_ACTUAL_AT))
    machine.device.set_target(_ALL)

    def rests() -> bool:
        newest = record.writes(_ACTUAL_AT)[start:][-_TRIES:]
        return len(newest) == _TRIES and len(set(newest)) == 1

    if not machine.until(rests):
        raise Failed("the size of its balloon does not come to rest")
    tried = len(record.accesses)
    begun_s = time.monotonic()
    time.sleep(_WATCH_S)
    rate = (len(record.accesses) - tried) / (time.monotonic() - begun_s)
    actual = machine.actual_pages
    # Nothing is asked of the guest meanwhile: a process it starts would have to be killed.
    if not machine.resize(0):
        raise Failed("it does not come back from it")
    if not machine.actions.is_alive(machine.guest):
        raise Failed("the guest does not answer any more")
    if rate > 40:
        raise Failed(f"{rate:.0f} configuration accesses a second while nothing can be done")
    return f"stopped at {actual} of {_ALL} pages, {rate:.0f} accesses a second; and came back"


@SUITE.check("M-7", Level.MUST, "a driver that leaves takes every page back")
def leaves(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING, poisons=True)
    if not machine.resize(1000):
        raise Failed("the balloon could not be filled")
    start = len(machine.device.record.messages)
    machine.actions.leave(machine.guest)
    machine.settle()
    taken = sum(len(one.pfns) for one in machine.device.record.of(QueueRole.DEFLATE, start))
    last = machine.device.record.writes(4)[-1]
    if taken != 1000 or last:
        raise Failed(f"{taken} of 1000 pages were taken back, actual is {last}")
    return "1000 pages taken back, actual written as 0"
