"""Checks of the statistics queue."""

from __future__ import annotations

from struct import Struct
from typing import Final

from ballonet.conform.checks import Failed, Level, NotApplicable, Suite
from ballonet.conform.device.rig import HostControl, Rig
from ballonet.conform.device.session import DeviceSession
from ballonet.errors import GuestError
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["SUITE"]

SUITE: Suite[Rig] = Suite()

_ENTRY: Final = Struct("<HQ")
_MEMFREE, _MEMTOT, _SWAP_IN = 4, 5, 0
_FREE_KEY, _TOTAL_KEY = "stat-free-memory", "stat-total-memory"


def _stats(*entries: tuple[int, int]) -> bytes:
    return b"".join(_ENTRY.pack(tag, value) for tag, value in entries)


def _control(rig: Rig) -> HostControl:
    if rig.control is None:
        raise NotApplicable("the host of this device cannot be asked for anything")
    return rig.control


def _answer(session: DeviceSession, control: HostControl, data: bytes) -> dict[str, int]:
    """Give a first buffer, wait for a question, answer it; returns what the host knows then."""
    head = session.post(QueueRole.STATS, [session.memory.message(bytes(10))])
    control.set_poll_interval(1)
    try:
        session.wait_used(QueueRole.STATS, head)
        session.post(QueueRole.STATS, [session.memory.message(data)])
        session.until(lambda: control.statistics().get(_TOTAL_KEY) == 1 << 30)
    finally:
        control.set_poll_interval(0)
    return control.statistics()


@SUITE.check("D-S0", Level.MUST, "the statistics buffer is kept until fresh ones are wanted")
def buffer_is_kept(rig: Rig) -> str:
    with rig.session() as session:
        session.need(Feature.STATS_VQ)
        head = session.post(QueueRole.STATS, [session.memory.message(_stats((_MEMFREE, 1)))])
        session.rest()
        if session.is_used(QueueRole.STATS, head):
            raise Failed("it came back though nobody asked for statistics")
        return "it is not returned unasked"


@SUITE.check("D-S1", Level.MUST, "unknown tags are ignored")
def unknown_tags(rig: Rig) -> str:
    control = _control(rig)
    with rig.session() as session:
        session.need(Feature.STATS_VQ)
        data = _stats((999, 1), (_MEMFREE, 4096), (65535, 2), (_MEMTOT, 1 << 30))
        stats = _answer(session, control, data)
        if stats.get(_FREE_KEY) != 4096 or stats.get(_TOTAL_KEY) != 1 << 30:
            raise Failed(f"known values between unknown ones are lost: {stats}")
        return "known values between unknown ones arrive"


@SUITE.check("D-S2", Level.MUST, "tags may come in any order, and any of them be missing")
def any_order(rig: Rig) -> str:
    control = _control(rig)
    with rig.session() as session:
        session.need(Feature.STATS_VQ)
        stats = _answer(session, control, _stats((_MEMTOT, 1 << 30), (_SWAP_IN, 7), (_MEMFREE, 5)))
        if (stats.get(_FREE_KEY), stats.get("stat-swap-in")) != (5, 7):
            raise Failed(f"values in another order are lost: {stats}")
        return "total, swap-in, free: in this order, all arrive"


@SUITE.check("D-S3", Level.PITFALL, "a buffer that ends inside an entry counts as far as it goes")
def partial_entry(rig: Rig) -> str:
    control = _control(rig)
    with rig.session() as session:
        session.need(Feature.STATS_VQ)
        data = _stats((_MEMFREE, 6), (_MEMTOT, 1 << 30)) + b"\x04\x00\xff"
        stats = _answer(session, control, data)
        if stats.get(_FREE_KEY) != 6:
            raise Failed(f"the whole entries are lost: {stats}")
        return "the whole entries arrive"


@SUITE.check("P-13", Level.PITFALL, "of several statistics buffers all but one come back at once")
def several_buffers(rig: Rig) -> str:
    with rig.session() as session:
        session.need(Feature.STATS_VQ)
        heads = [
            session.post(QueueRole.STATS, [session.memory.message(_stats((_MEMFREE, i)))])
            for i in range(4)
        ]
        for head in heads[:-1]:
            session.wait_used(QueueRole.STATS, head)
        session.rest()
        if session.is_used(QueueRole.STATS, heads[-1]):
            raise Failed("the newest buffer came back too")
        return "three of four came back, the newest is kept"


@SUITE.check("P-14", Level.PITFALL, "resets while a statistics buffer is held leave nothing behind")
def resets_with_a_held_buffer(rig: Rig) -> str:
    for _ in range(20):
        with rig.session() as session:
            session.need(Feature.STATS_VQ)
            session.post(QueueRole.STATS, [session.memory.message(_stats((_MEMFREE, 1)))])
            session.transport.reset()
    with rig.session() as session:
        first = session.post(QueueRole.STATS, [session.memory.message(_stats((_MEMFREE, 1)))])
        session.post(QueueRole.STATS, [session.memory.message(_stats((_MEMFREE, 2)))])
        session.wait_used(QueueRole.STATS, first)
        return "after 20 resets the queue works as at first"


@SUITE.check("P-16", Level.PITFALL, "a polling interval that is negative or too long is refused")
def wrong_intervals(rig: Rig) -> str:
    control = _control(rig)
    with rig.session():
        told = [_refusal(control, seconds) for seconds in (-1, 1 << 32)]
    return "; ".join(told)


def _refusal(control: HostControl, seconds: int) -> str:
    try:
        control.set_poll_interval(seconds)
    except GuestError as error:
        return str(error)
    control.set_poll_interval(0)
    raise Failed(f"an interval of {seconds} s is accepted")


@SUITE.check("P-21", Level.PITFALL, "a statistics buffer of a mebibyte does no harm")
def long_buffer(rig: Rig) -> str:
    with rig.session() as session:
        session.need(Feature.STATS_VQ)
        size = 1 << 20
        session.post(QueueRole.STATS, [(session.memory.file.size - size, size)])
        session.post(QueueRole.STATS, [session.memory.message(_stats((_MEMFREE, 1)))])
        return session.works()
