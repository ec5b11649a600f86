"""Checks of free page hints and of free page reporting."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from ballonet.conform.checks import Failed, Level, NotApplicable, Suite
from ballonet.conform.driver.features import EVERYTHING
from ballonet.conform.driver.guests import DriverRig, GuestUnderTest
from ballonet.conform.driver.scripted_device import Message
from ballonet.units import BALLOON_PAGE_BYTES, format_bytes
from ballonet.virtio.features import Feature
from ballonet.virtio.hint_ids import CMD_ID_DONE, CMD_ID_STOP
from ballonet.virtio.queues import QueueRole

__all__ = ["SUITE"]

SUITE: Suite[DriverRig] = Suite()

_ROUND_S: Final = 120.0
_REPORTS_S: Final = 120.0
_HOLD_S: Final = 0.7
_CMD_ID_AT: Final = 8


def _round(machine: GuestUnderTest) -> list[Message]:
    """Everything a driver says in one round of hints. Raises: Failed."""
    start = len(machine.device.record.messages)
    rounds = machine.device.status().counters.hint_rounds
    machine.device.hints.begin()
    begun = machine.until(lambda: machine.device.status().counters.hint_rounds > rounds, _ROUND_S)
    if not begun:
        raise Failed("it begins no round")
    ended = machine.until(lambda: machine.device.status().hint_state == "STOP", _ROUND_S)
    messages = machine.device.record.of(QueueRole.HINT, start)
    if not ended:
        raise Failed(f"the round does not end; it has hinted {len(messages)} blocks")
    return messages


def _finish(machine: GuestUnderTest) -> None:
    """Say DONE, and wait until the driver has seen it: another id right after would hide it."""
    seen = len(machine.device.record.accesses)
    machine.device.hints.finish()
    machine.until(
        lambda: any(one.offset <= _CMD_ID_AT for one in machine.device.record.accesses[seen:])
    )
    time.sleep(0.1)


@SUITE.check("G-H1", Level.MUST, "commands of hint rounds have four bytes")
def commands(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    sizes = {len(one.data) for one in _round(machine) if one.data}
    _finish(machine)
    if sizes != {4}:
        raise Failed(f"commands of {sizes} bytes")
    return "all of them"


@SUITE.check("G-H2", Level.MUST, "a round begins with its id, which is sent once")
def begins_with_the_id(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    messages = _round(machine)
    _finish(machine)
    words = [one.word for one in messages if one.data]
    if not messages[0].data or words[0] <= CMD_ID_DONE or words.count(words[0]) != 1:
        raise Failed(f"its commands are {[hex(word) for word in words]}")
    return f"{words[0]:#x}, then {len(messages) - len(words)} blocks"


@SUITE.check("G-H4", Level.MUST, "a round that runs out of pages ends with STOP")
def ends_with_stop(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    messages = _round(machine)
    _finish(machine)
    if not messages[-1].data or messages[-1].word != CMD_ID_STOP:
        raise Failed("its last message is no STOP")
    return f"after {sum(bool(one.writable) for one in messages)} blocks"


@SUITE.check("G-H3", Level.SHOULD, "stops hinting when it sees STOP or DONE")
def stops_when_told(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    machine.device.hints.begin()
    machine.device.hints.stop()
    _finish(machine)
    time.sleep(_HOLD_S)
    count = len(machine.device.record.of(QueueRole.HINT))
    time.sleep(_HOLD_S)
    if len(machine.device.record.of(QueueRole.HINT)) != count:
        raise Failed("it goes on hinting after DONE")
    return "nothing is hinted after DONE"


@SUITE.check("G-H7", Level.SHOULD, "takes all hinted pages back when it sees DONE")
def takes_pages_back(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    before = machine.guest.meminfo()["MemFree"]
    messages = _round(machine)
    hinted = sum(length for one in messages for _, length in one.writable)
    during = machine.guest.meminfo()["MemFree"]
    _finish(machine)
    if not machine.until(lambda: machine.guest.meminfo()["MemFree"] > before * 9 // 10):
        raise Failed(f"it had {format_bytes(before)} free, and has much less after DONE")
    return (
        f"{format_bytes(hinted)} hinted, {format_bytes(during)} free meanwhile, all back after DONE"
    )


@SUITE.check("G-H8", Level.PITFALL, "the same id shown again begins no second round")
def repeated_id(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    words = [one.word for one in _round(machine) if one.data]
    start = len(machine.device.record.messages)
    for _ in range(3):
        machine.device.announce()
        time.sleep(0.1)
    again = machine.device.record.of(QueueRole.HINT, start)
    _finish(machine)
    if any(one.data and one.word == words[0] for one in again):
        raise Failed(f"{words[0]:#x} is answered again")
    return "three more configuration changes, no second round"


def _reports(machine: GuestUnderTest) -> list[Message]:
    """Reports of memory that was used and freed. Raises: Failed; NotApplicable."""
    if Feature.PAGE_REPORTING not in machine.negotiated:
        raise NotApplicable("the driver did not accept PAGE_REPORTING")
    start = len(machine.device.record.messages)
    machine.resize(0)
    machine.guest.use_memory(60)
    if not machine.until(
        lambda: bool(machine.device.record.of(QueueRole.REPORTING, start)), _REPORTS_S
    ):
        raise Failed(f"nothing is reported within {_REPORTS_S:.0f} s")
    return machine.device.record.of(QueueRole.REPORTING, start)


@SUITE.check("G-R4", Level.SHOULD, "reports free memory in large blocks")
def large_blocks(rig: DriverRig) -> str:
    reports = _reports(rig.machine(EVERYTHING))
    sizes = Counter(length for one in reports for _, length in one.writable)
    if min(sizes) < 64 * BALLOON_PAGE_BYTES:
        raise Failed(f"blocks of {format_bytes(min(sizes))}")
    return ", ".join(f"{count} blocks of {format_bytes(size)}" for size, count in sizes.items())


@SUITE.check("G-R2", Level.MUST, "reported pages hold the poison value")
def reported_pages_hold_poison(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING, poisons=True)
    value = machine.device.record.writes(12)[:1]
    reports = _reports(machine)
    pattern = bytes(value[0].to_bytes(4, "little")) if value else bytes(4)
    wrong = [one for one in reports if one.sample.strip(pattern)]
    if wrong:
        raise Failed(f"{len(wrong)} of {len(reports)} reports name pages with something else")
    return f"{len(reports)} reports, every page looked at holds {pattern.hex()}"


@SUITE.check("G-R3", Level.MUST, "does not touch a reported page before the answer")
def waits_for_reports(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    if Feature.PAGE_REPORTING not in machine.negotiated:
        raise NotApplicable("the driver did not accept PAGE_REPORTING")
    machine.device.hold(QueueRole.REPORTING)
    try:
        machine.guest.use_memory(60)
        if not machine.until(lambda: machine.device.held(QueueRole.REPORTING) == 1, _REPORTS_S):
            raise Failed(f"nothing is reported within {_REPORTS_S:.0f} s")
        report = machine.device.record.of(QueueRole.REPORTING)[-1]
        pfns = [gpa // BALLOON_PAGE_BYTES for gpa, _ in report.writable]
        before = machine.device.sample(pfns)
        time.sleep(_HOLD_S)
        if machine.device.sample(pfns) != before:
            raise Failed("a reported page has changed before the answer")
    finally:
        machine.device.release()
    return f"{len(report.writable)} blocks left alone for {_HOLD_S} s"
