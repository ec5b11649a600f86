"""Checks of the rings: what a driver may do, and what none should."""

from __future__ import annotations

from collections.abc import Callable

from ballonet.conform.checks import Failed, Level, NotApplicable, Suite
from ballonet.conform.device.raw_ring import RawSplitRing
from ballonet.conform.device.rig import EVERYTHING, Rig
from ballonet.conform.device.session import DeviceSession
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.descriptors import F_INDIRECT, F_NEXT, F_WRITE

__all__ = ["SUITE"]

SUITE: Suite[Rig] = Suite()

_INFLATE = QueueRole.INFLATE
_PLAIN = EVERYTHING & ~Feature.EVENT_IDX


def _survives(rig: Rig, offend: Callable[[DeviceSession, RawSplitRing], None]) -> str:
    """Break a rule, then see that the host's side answers and a reset makes all well."""
    with rig.session() as session:
        offend(session, session.raw(_INFLATE))
        session.kick(_INFLATE)
        session.rest()
        session.transport.read_config(0, 4)
    with rig.session() as session:
        return "the configuration stays readable, and after a reset " + session.works()


@SUITE.check("RQ-1", Level.MUST, "a message may be split into descriptors anywhere")
def any_framing(rig: Rig) -> str:
    with rig.session() as session:
        pfns = session.memory.pages(8)
        gpa, length = session.memory.pfn_message(pfns[:4])
        session.send(_INFLATE, [(gpa + i, 1) for i in range(length)])
        session.until(lambda: len(session.memory.emptied(pfns[:4])) == 4)
        if len(session.memory.emptied(pfns[:4])) != 4 or len(session.memory.kept(pfns[4:])) != 4:
            raise Failed("a message in descriptors of one byte is read wrongly")
        return f"4 page numbers in {length} descriptors of one byte are understood"


@SUITE.check("RQ-2", Level.MUST, "a chain that loops is noticed")
def loops(rig: Rig) -> str:
    def offend(session: DeviceSession, ring: RawSplitRing) -> None:
        gpa, length = session.memory.pfn_message(session.memory.pages(1))
        ring.write_descriptor(0, gpa, length, F_NEXT, 1)
        ring.write_descriptor(1, gpa, length, F_NEXT, 0)
        ring.offer(0)

    return _survives(rig, offend)


@SUITE.check("RQ-3", Level.MUST, "a readable descriptor after a writable one does no harm")
def wrong_order(rig: Rig) -> str:
    def offend(session: DeviceSession, ring: RawSplitRing) -> None:
        gpa, length = session.memory.pfn_message(session.memory.pages(1))
        ring.write_descriptor(0, gpa, length, F_NEXT | F_WRITE, 1)
        ring.write_descriptor(1, gpa, length, 0, 0)
        ring.offer(0)

    return _survives(rig, offend)


@SUITE.check("RQ-4", Level.MUST, "neither messages nor descriptors are written by the device")
def nothing_is_written(rig: Rig) -> str:
    with rig.session() as session:
        message = session.memory.pfn_message(session.memory.pages(16))
        head = session.rings[_INFLATE].add([message])
        table = session.raw(_INFLATE).table()
        session.rings[_INFLATE].publish()
        before = session.memory.file.read(*message)
        session.kick(_INFLATE)
        session.wait_used(_INFLATE, head)
        if session.memory.file.read(*message) != before or session.raw(_INFLATE).table() != table:
            raise Failed("the message or the descriptor table has changed")
        return "both are as they were"


@SUITE.check(
    "RQ-5", Level.MUST, "an indirect table is followed, its descriptor's WRITE flag ignored"
)
def indirect_tables(rig: Rig) -> str:
    with rig.session() as session:
        session.need(Feature.INDIRECT_DESC)
        pfns = session.memory.pages(2)
        gpa, length = session.memory.pfn_message(pfns)
        table = session.memory.message(
            gpa.to_bytes(8, "little") + length.to_bytes(4, "little") + bytes(4)
        )
        ring = session.raw(_INFLATE)
        ring.write_descriptor(0, *table, F_INDIRECT | F_WRITE, 0)
        ring.offer(0)
        session.kick(_INFLATE)
        session.wait_used(_INFLATE, 0)
        if not session.until(lambda: len(session.memory.emptied(pfns)) == 2):
            raise Failed("the pages named in the table are kept")
        return "the pages named in the table are dropped"


@SUITE.check("RQ-5b", Level.MUST, "a table inside a table, or with NEXT beside it, does no harm")
def nested_tables(rig: Rig) -> str:
    def offend(session: DeviceSession, ring: RawSplitRing) -> None:
        inner = session.memory.allocate(16)
        outer = session.memory.message(
            inner.to_bytes(8, "little") + (16).to_bytes(4, "little") + b"\x04\x00\x00\x00"
        )
        ring.write_descriptor(0, *outer, F_INDIRECT | F_NEXT, 1)
        ring.write_descriptor(1, *outer, F_INDIRECT, 0)
        ring.offer(0)

    return _survives(rig, offend)


@SUITE.check("RQ-6", Level.MUST, "an indirect table that is no multiple of 16 bytes does no harm")
def crooked_table(rig: Rig) -> str:
    def offend(session: DeviceSession, ring: RawSplitRing) -> None:
        ring.write_descriptor(0, session.memory.allocate(64), 8, F_INDIRECT, 0)
        ring.offer(0)

    return _survives(rig, offend)


@SUITE.check("RQ-7", Level.MUST, "chains are used in any number at once, each exactly once")
def many_at_once(rig: Rig) -> str:
    with rig.session() as session:
        ring = session.rings[_INFLATE]
        count = min(64, ring.size)
        heads = [
            ring.add([session.memory.pfn_message(session.memory.pages(1))]) for _ in range(count)
        ]
        ring.publish()
        session.kick(_INFLATE)
        for head in heads:
            session.wait_used(_INFLATE, head)
        return f"{count} chains behind one kick, all used, none twice"


@SUITE.check("RQ-8", Level.SHOULD, "a driver that asks for no calls gets none, without EVENT_IDX")
def no_calls(rig: Rig) -> str:
    with rig.session(_PLAIN) as session:
        session.raw(_INFLATE).forbid_calls()
        before = session.calls(_INFLATE)
        for _ in range(8):
            session.inflate(session.memory.pages(1))
        if session.calls(_INFLATE) != before:
            raise Failed(f"{session.calls(_INFLATE) - before} calls came")
        return "8 messages, no call"


@SUITE.check("RQ-8b", Level.MUST, "every used message is called for, unless that was declined")
def calls_come(rig: Rig) -> str:
    for wanted, name in ((_PLAIN, "without"), (EVERYTHING, "with")):
        with rig.session(wanted) as session:
            if not all(_is_called_for(session) for _ in range(4)):
                raise Failed(f"a used chain {name} EVENT_IDX is not called for")
    return "with and without EVENT_IDX"


def _is_called_for(session: DeviceSession) -> bool:
    before = session.calls(_INFLATE)
    session.inflate(session.memory.pages(1))
    return session.until(lambda: session.calls(_INFLATE) > before)


@SUITE.check("RQ-8c", Level.MUST, "kicks without chains do no harm")
def spurious_kicks(rig: Rig) -> str:
    with rig.session() as session:
        for _ in range(200):
            session.kick(_INFLATE)
            session.kick(QueueRole.DEFLATE)
        return "after 400 of them " + session.works()


@SUITE.check("RQ-9", Level.MUST, "with EVENT_IDX the device says at which index it wants a kick")
def event_index(rig: Rig) -> str:
    with rig.session() as session:
        session.need(Feature.EVENT_IDX)
        ring = session.raw(_INFLATE)
        for _ in range(5):
            session.inflate(session.memory.pages(1))
        if not session.until(lambda: ring.avail_event == ring.available):
            raise Failed(f"{ring.available} chains were used, the index is {ring.avail_event}")
        if ring.used_flags:
            raise Failed(f"used.flags is {ring.used_flags}, with EVENT_IDX it must be 0")
        return f"after {ring.available} chains the index is {ring.avail_event}, the flags are 0"


@SUITE.check("RQ-10", Level.MUST, "an index that jumps beyond the ring is noticed")
def index_jumps(rig: Rig) -> str:
    return _survives(rig, lambda _, ring: ring.jump(ring.size + 1))


@SUITE.check("RQ-11", Level.MUST, "a head, or a next, outside the table is noticed")
def wrong_heads(rig: Rig) -> str:
    def bad_head(_: DeviceSession, ring: RawSplitRing) -> None:
        ring.offer(ring.size)

    def bad_next(session: DeviceSession, ring: RawSplitRing) -> None:
        gpa, length = session.memory.pfn_message(session.memory.pages(1))
        ring.write_descriptor(0, gpa, length, F_NEXT, ring.size)
        ring.offer(0)

    _survives(rig, bad_head)
    return _survives(rig, bad_next)


@SUITE.check("RQ-12", Level.MUST, "packed rings are served, several laps round")
def packed_rings(rig: Rig) -> str:
    wanted = EVERYTHING | Feature.RING_PACKED
    with rig.session(wanted, packed=True) as session:
        session.need(Feature.RING_PACKED)
        ring = session.rings[_INFLATE]
        message = session.memory.pfn_message(session.memory.pages(1))
        laps = 3
        for _ in range(laps * ring.size):
            session.send(_INFLATE, [message])
        pfns = session.memory.pages(4)
        session.inflate(pfns)
        if not session.until(lambda: len(session.memory.emptied(pfns)) == 4):
            raise Failed("pages given over a packed ring are kept")
        return f"{laps} laps of {ring.size} slots"


@SUITE.check(
    "RQ-14", Level.MUST, "with IN_ORDER chains are used in the order they were made available"
)
def in_order(rig: Rig) -> str:
    with rig.session(EVERYTHING | Feature.IN_ORDER) as session:
        if Feature.IN_ORDER not in session.negotiated:
            raise NotApplicable("the device does not offer IN_ORDER")
        return session.works()


@SUITE.check("P-24", Level.PITFALL, "a descriptor outside memory does no harm")
def outside_memory(rig: Rig) -> str:
    def offend(_: DeviceSession, ring: RawSplitRing) -> None:
        ring.write_descriptor(0, 1 << 50, 1024, 0, 0)
        ring.offer(0)

    return _survives(rig, offend)


@SUITE.check("P-26", Level.PITFALL, "a descriptor of length 0 does no harm")
def empty_descriptor(rig: Rig) -> str:
    def offend(session: DeviceSession, ring: RawSplitRing) -> None:
        ring.write_descriptor(0, session.memory.allocate(64), 0, 0, 0)
        ring.offer(0)

    return _survives(rig, offend)


@SUITE.check("P-49", Level.MUST, "one driver after another may use the device")
def reinitialisation(rig: Rig) -> str:
    with rig.session() as session:
        for _ in range(5):
            session.works()
            session.transport.reset()
            session.begin(EVERYTHING)
        return "5 resets in one session, then " + session.works()
