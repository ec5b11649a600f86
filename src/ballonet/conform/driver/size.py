"""Checks of how a driver fills and empties the balloon."""

from __future__ import annotations

import time
from typing import Final

from ballonet.conform.checks import Failed, Level, Suite
from ballonet.conform.driver.features import EVERYTHING
from ballonet.conform.driver.guests import MEMORY_BYTES, DriverRig, GuestUnderTest
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["SUITE"]

SUITE: Suite[DriverRig] = Suite()

_HOLD_S: Final = 0.7
_MESSAGE_MAX: Final = 256


def _changes(machine: GuestUnderTest, pages: int) -> int:
    """Place in the record from which a change of the balloon is found there. Raises: Failed."""
    start = len(machine.device.record.messages)
    if not machine.resize(pages):
        raise Failed(f"the balloon stays at {machine.actual_pages} of {pages} pages")
    machine.settle()
    return start


@SUITE.check("G-O1", Level.SHOULD, "gives pages while num_pages is above the balloon")
def inflates(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    _changes(machine, 0)
    start = _changes(machine, 1000)
    messages = machine.device.record.of(QueueRole.INFLATE, start)
    sizes = [len(one.pfns) for one in messages]
    if sum(sizes) != 1000 or len({pfn for one in messages for pfn in one.pfns}) != 1000:
        raise Failed(f"messages of {sizes} pages for 1000")
    return f"1000 pages in messages of {', '.join(map(str, sizes))}"


@SUITE.check("G-O2", Level.SHOULD, "takes pages back while num_pages is below the balloon")
def deflates(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    _changes(machine, 1000)
    start = _changes(machine, 10)
    sizes = [len(one.pfns) for one in machine.device.record.of(QueueRole.DEFLATE, start)]
    if sum(sizes) != 990:
        raise Failed(f"messages of {sizes} pages for 990")
    return f"990 pages in messages of {', '.join(map(str, sizes))}"


@SUITE.check("G-O6", Level.MUST, "names every page it takes back")
def names_what_it_takes(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    _changes(machine, 0)
    start = _changes(machine, 2000)
    _changes(machine, 0)
    record = machine.device.record
    given = {pfn for one in record.of(QueueRole.INFLATE, start) for pfn in one.pfns}
    taken = [pfn for one in record.of(QueueRole.DEFLATE, start) for pfn in one.pfns]
    if set(taken) != given or len(taken) != len(given):
        raise Failed(
            f"{len(given)} pages were given, {len(set(taken) & given)} of them named again"
        )
    return f"{len(given)} pages given, the same {len(taken)} taken back"


@SUITE.check("G-O7", Level.MUST, "does not touch a page before its deflate is used")
def waits_for_deflates(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    _changes(machine, 512)
    machine.device.hold(QueueRole.DEFLATE)
    machine.device.set_target(256)
    try:
        if not machine.until(lambda: machine.device.held(QueueRole.DEFLATE) == 1):
            raise Failed("no deflate comes")
        pfns = machine.device.record.of(QueueRole.DEFLATE)[-1].pfns
        before = machine.device.sample(pfns)
        time.sleep(_HOLD_S)
        if machine.device.sample(pfns) != before:
            raise Failed("a page has changed while its deflate was not answered")
        if machine.actual_pages != 512:
            raise Failed(f"actual is {machine.actual_pages} before the answer")
    finally:
        machine.device.release()
    if not machine.resize(0):
        raise Failed("it does not go on after the answer")
    return f"{_HOLD_S} s without an answer, and the pages are as they were"


@SUITE.check("G-O9", Level.MUST, "does not touch a page between giving it and the answer")
def waits_for_inflates(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    _changes(machine, 0)
    machine.device.hold(QueueRole.INFLATE)
    machine.device.set_target(256)
    try:
        if not machine.until(lambda: machine.device.held(QueueRole.INFLATE) == 1):
            raise Failed("no inflate comes")
        pfns = machine.device.record.of(QueueRole.INFLATE)[-1].pfns
        before = machine.device.sample(pfns)
        time.sleep(_HOLD_S)
        if machine.device.sample(pfns) != before:
            raise Failed("a page has changed while its inflate was not answered")
        if machine.actual_pages:
            raise Failed(f"actual is {machine.actual_pages} before the answer")
    finally:
        machine.device.release()
    if not machine.resize(256):
        raise Failed("it does not go on after the answer")
    return f"{_HOLD_S} s without an answer, and the pages are as they were"


@SUITE.check("G-O10", Level.MUST, "does not take back a page whose inflate is not answered")
def no_deflate_of_unanswered(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    _changes(machine, 0)
    start = len(machine.device.record.messages)
    machine.device.hold(QueueRole.INFLATE)
    machine.device.set_target(256)
    try:
        machine.until(lambda: machine.device.held(QueueRole.INFLATE) == 1)
        machine.device.set_target(0)
        time.sleep(_HOLD_S)
        if machine.device.record.of(QueueRole.DEFLATE, start):
            raise Failed("a deflate came while the inflate was not answered")
    finally:
        machine.device.release()
    if not machine.resize(0):
        raise Failed("it does not follow the newer target after the answer")
    return "no deflate until the answer came; then the newer target is followed"


@SUITE.check("G-O11", Level.MUST, "writes actual after the balloon has changed")
def tells_actual(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    _changes(machine, 0)
    writes = len(machine.device.record.writes(4))
    _changes(machine, 1000)
    told = machine.device.record.writes(4)[writes:]
    if not told or told[-1] != 1000 or told != sorted(told):
        raise Failed(f"actual was written as {told}")
    return f"actual is written as {', '.join(map(str, told))}"


@SUITE.check("G-O4", Level.MUST, "without DEFLATE_ON_OOM takes nothing back when memory runs out")
def keeps_its_word(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    pages = MEMORY_BYTES * 6 // 10 // BALLOON_PAGE_BYTES
    _changes(machine, pages)
    start = len(machine.device.record.messages)
    survived = machine.actions.overcommit(machine.guest, MEMORY_BYTES // 2)
    given, taken = (
        sum(len(one.pfns) for one in machine.device.record.of(role, start))
        for role in (QueueRole.INFLATE, QueueRole.DEFLATE)
    )
    # Compaction may move pages of the balloon meanwhile: each is given first, then taken back.
    if taken > given or machine.actual_pages != pages:
        raise Failed(f"{taken} pages were taken back, and {given} given")
    machine.resize(0)
    return f"a process {'survives' if survived else 'is killed'}, the balloon stays"


@SUITE.check("G-O5", Level.SHOULD, "with DEFLATE_ON_OOM takes pages back rather than kill")
def gives_way(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING | Feature.DEFLATE_ON_OOM)
    if Feature.DEFLATE_ON_OOM not in machine.negotiated:
        raise Failed("it does not accept DEFLATE_ON_OOM")
    pages = MEMORY_BYTES * 6 // 10 // BALLOON_PAGE_BYTES
    start = _changes(machine, pages)
    survived = machine.actions.overcommit(machine.guest, MEMORY_BYTES // 2)
    taken = sum(len(one.pfns) for one in machine.device.record.of(QueueRole.DEFLATE, start))
    machine.resize(0)
    if not survived or not taken:
        raise Failed(
            f"{taken} pages were taken back, the process {'lives' if survived else 'dies'}"
        )
    return f"{taken} pages taken back, and the process lives"


@SUITE.check("G-O12", Level.MUST, "a page moved inside the guest is first given, then taken back")
def moves_pages(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    _changes(machine, 0)
    _changes(machine, 20_000)
    machine.resize(10_000)
    start = len(machine.device.record.messages)
    writes = len(machine.device.record.writes(4))
    machine.actions.compact(machine.guest)
    moves = [
        one
        for one in machine.device.record.messages[start:]
        if one.role in (QueueRole.INFLATE, QueueRole.DEFLATE)
    ]
    if not moves:
        return "nothing had to be moved"
    roles = [one.role for one in moves]
    if roles != [QueueRole.INFLATE, QueueRole.DEFLATE] * (len(moves) // 2):
        raise Failed("the messages are not inflate, deflate in turns")
    if machine.actual_pages != 10_000 or len(machine.device.record.writes(4)) != writes:
        raise Failed("actual was written though nothing has changed")
    return f"{len(moves) // 2} pages moved, each inflate before its deflate, actual untouched"


@SUITE.check(
    "G-O13", Level.SHOULD, "a message has one buffer of at most 256 numbers, one at a time"
)
def message_sizes(rig: DriverRig) -> str:
    machine = rig.machine(EVERYTHING)
    sizes = [
        len(one.pfns)
        for one in machine.device.record.messages
        if one.role in (QueueRole.INFLATE, QueueRole.DEFLATE)
    ]
    if not sizes or max(sizes) > _MESSAGE_MAX or min(sizes) < 1:
        raise Failed(f"sizes from {min(sizes, default=0)} to {max(sizes, default=0)}")
    return f"{len(sizes)} messages of 1 to {max(sizes)} numbers"
