"""Checks of the legacy interface, which only buses with registers have."""

from __future__ import annotations

from ballonet.conform.checks import Failed, Level, NotApplicable, Suite
from ballonet.conform.device.rig import EVERYTHING, Rig
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["SUITE"]

SUITE: Suite[Rig] = Suite()

_WANTED = EVERYTHING & ~(Feature.VERSION_1 | Feature.MUST_TELL_HOST)


@SUITE.check("L-1", Level.MUST, "legacy: works, and leaves pages alone once their inflate is used")
def legacy_works(rig: Rig) -> str:
    with rig.session(_WANTED, legacy=True) as session:
        pfns = session.memory.pages(16)
        session.inflate(pfns)
        for pfn in pfns:
            session.memory.write_page(pfn, salt=1)
        session.rest()
        if len(session.memory.kept(pfns, salt=1)) != 16:
            raise Failed("a page written after the answer has changed")
        return "16 pages given and used again at once, all kept"


@SUITE.check("L-2", Level.MUST, "legacy: the configuration is little-endian")
def legacy_configuration(rig: Rig) -> str:
    if rig.control is None:
        raise NotApplicable("the host of this device cannot be asked for anything")
    with rig.session(_WANTED, legacy=True) as session:
        rig.control.set_target(0x0102)
        raw = session.transport.read_config(0, 4)
        rig.control.set_target(0)
        if raw != bytes((2, 1, 0, 0)):
            raise Failed(f"a target of 0x0102 reads {raw.hex()}")
        return "a target of 0x0102 reads 02 01 00 00"


@SUITE.check("L-7", Level.SHOULD, "legacy: the first statistics buffer is ignored")
def legacy_first_buffer(rig: Rig) -> str:
    if rig.control is None:
        raise NotApplicable("the host of this device cannot be asked for anything")
    with rig.session(_WANTED, legacy=True) as session:
        session.need(Feature.STATS_VQ)
        garbage = (4).to_bytes(2, "little") + (0xDEADBEEF).to_bytes(8, "little")
        session.post(QueueRole.STATS, [session.memory.message(garbage)])
        session.rest()
        if rig.control.statistics().get("stat-free-memory") == 0xDEADBEEF:
            raise Failed("what old drivers left in their first buffer is taken for statistics")
        return "its values are not shown"
