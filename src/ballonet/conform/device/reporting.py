"""Checks of free page reporting and page poison."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Failed, Level, Suite
from ballonet.conform.device.rig import EVERYTHING, Rig
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["SUITE"]

SUITE: Suite[Rig] = Suite()

_POISON_AT: Final = 12
_BLOCK: Final = 512


@SUITE.check("D-R0", Level.SHOULD, "memory that was reported goes back to the host, and no other")
def reported_memory_is_dropped(rig: Rig) -> str:
    with rig.session(EVERYTHING & ~Feature.PAGE_POISON) as session:
        session.need(Feature.PAGE_REPORTING)
        pfns = session.memory.pages(3 * _BLOCK)
        pieces = [
            (pfns[at] * BALLOON_PAGE_BYTES, _BLOCK * BALLOON_PAGE_BYTES) for at in (0, 2 * _BLOCK)
        ]
        session.send(QueueRole.REPORTING, [], pieces)
        given, between = pfns[:_BLOCK] + pfns[2 * _BLOCK :], pfns[_BLOCK : 2 * _BLOCK]
        if len(session.memory.kept(between)) != _BLOCK:
            raise Failed("memory that was not reported has changed")
        dropped = len(session.memory.emptied(given))
        if dropped != 2 * _BLOCK:
            raise Failed(f"{dropped} of {2 * _BLOCK} reported pages are dropped")
        return f"{dropped} reported pages dropped, {_BLOCK} between them kept"


@SUITE.check("D-R1", Level.MUST, "reported memory is left alone once the report is used")
def used_reports_are_left_alone(rig: Rig) -> str:
    with rig.session(EVERYTHING & ~Feature.PAGE_POISON) as session:
        session.need(Feature.PAGE_REPORTING)
        pfns = session.memory.pages(_BLOCK)
        session.send(
            QueueRole.REPORTING, [], [(pfns[0] * BALLOON_PAGE_BYTES, _BLOCK * BALLOON_PAGE_BYTES)]
        )
        for pfn in pfns:
            session.memory.write_page(pfn, salt=1)
        session.rest()
        lost = _BLOCK - len(session.memory.kept(pfns, salt=1))
        if lost:
            raise Failed(f"{lost} pages written right after the answer have changed")
        return f"{_BLOCK} pages written right after the answer, all kept"


@SUITE.check("D-R2", Level.MUST, "with a poison value reported memory keeps it")
def poison_is_kept(rig: Rig) -> str:
    with rig.session() as session:
        session.need(Feature.PAGE_REPORTING, Feature.PAGE_POISON)
        session.transport.write_config(_POISON_AT, b"\xaa" * 4)
        pfns = session.memory.pages(_BLOCK)
        for pfn in pfns:
            session.memory.write(pfn * BALLOON_PAGE_BYTES, b"\xaa" * BALLOON_PAGE_BYTES)
        session.send(
            QueueRole.REPORTING, [], [(pfns[0] * BALLOON_PAGE_BYTES, _BLOCK * BALLOON_PAGE_BYTES)]
        )
        session.rest()
        wrong = [p for p in pfns if session.memory.read_page(p) != b"\xaa" * BALLOON_PAGE_BYTES]
        if wrong:
            raise Failed(f"{len(wrong)} of {_BLOCK} pages do not hold their poison any more")
        return f"{_BLOCK} pages still hold 0xaa"


@SUITE.check("D-R3", Level.MUST, "a report of 32 pieces, which fills the ring, is answered with 0")
def full_ring(rig: Rig) -> str:
    with rig.session(EVERYTHING & ~Feature.PAGE_POISON) as session:
        session.need(Feature.PAGE_REPORTING)
        pfns = session.memory.pages(64)
        pieces = [(pfn * BALLOON_PAGE_BYTES, BALLOON_PAGE_BYTES) for pfn in pfns[::2]]
        used = session.send(QueueRole.REPORTING, [], pieces)
        if used.length:
            raise Failed(f"the used length is {used.length}")
        if len(session.memory.kept(pfns[1::2])) != 32:
            raise Failed("memory that was not reported has changed")
        return "32 pieces in one chain, used length 0"


@SUITE.check("P-R1", Level.PITFALL, "a report that covers part of a page does not drop the page")
def partial_reports(rig: Rig) -> str:
    with rig.session(EVERYTHING & ~Feature.PAGE_POISON) as session:
        session.need(Feature.PAGE_REPORTING)
        pfns = session.memory.pages(3)
        half = BALLOON_PAGE_BYTES // 2
        gpa = pfns[0] * BALLOON_PAGE_BYTES + half
        before = session.memory.file.read(pfns[0] * BALLOON_PAGE_BYTES, half)
        session.send(QueueRole.REPORTING, [], [(gpa, 2 * BALLOON_PAGE_BYTES)])
        session.rest()
        if session.memory.file.read(pfns[0] * BALLOON_PAGE_BYTES, half) != before:
            raise Failed("the part of a page that was not reported is lost")
        return "the parts that were not reported are kept"


@SUITE.check("P-R2", Level.PITFALL, "a report beyond memory breaks at most the device's own ring")
def reports_beyond_memory(rig: Rig) -> str:
    with rig.session(EVERYTHING & ~Feature.PAGE_POISON) as session:
        session.need(Feature.PAGE_REPORTING)
        session.post(QueueRole.REPORTING, [], [(1 << 45, 4 << 20)])
        session.rest()
    with rig.session() as session:
        return "after a reset " + session.works()
