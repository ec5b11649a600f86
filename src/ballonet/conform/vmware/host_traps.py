"""Checks of what a hostile or confused guest can do to a VMware host: nothing, but to itself."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Level, Suite, expect
from ballonet.conform.vmware.host_rig import HostRig
from ballonet.conform.vmware.host_session import BLOCK_BYTES
from ballonet.vmware.calls import HUGE_PAGES, Command, Status

__all__ = ["SUITE"]

SUITE: Suite[HostRig] = Suite()

_CALLS: Final = 5000
_WORDS: Final = (0, 1, 2, 512, 513, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 52, (1 << 64) - 1)


@SUITE.check("V-P1", Level.PITFALL, "a page named twice in a batch is locked once")
def twice_in_a_batch(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(3)
        statuses = session.batch(Command.BATCHED_LOCK, [pfns[1]] * 5)
        expect("entries", statuses, [Status.SUCCESS] + [Status.PPN_LOCKED] * 4)
        expect("the balloon", session.host.actual_pages, 1)
        session.must_keep([pfns[0], pfns[2]], "beside it")
        statuses = session.batch(Command.BATCHED_UNLOCK, [pfns[1]] * 2)
        expect("unlocked", statuses, [Status.SUCCESS, Status.PPN_UNLOCKED])
        session.must_keep(pfns, "after they were named twice")
        return "SUCCESS, then PPN_LOCKED; back once, then PPN_UNLOCKED"


@SUITE.check("V-P2", Level.PITFALL, "a batch page that is locked by its own batch harms nobody")
def batch_page_in_batch(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(2)
        session.batch(Command.BATCHED_LOCK, [session.batch_pfn, pfns[0]])
        session.host.rest()
        expect("neighbours that are kept", session.memory.kept(pfns[1:]), pfns[1:])
        return session.works()


@SUITE.check("V-P3", Level.PITFALL, "a page that is locked again may be in use, and is kept")
def locked_again(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(16)
        session.batch(Command.BATCHED_LOCK, pfns)
        for pfn in pfns:
            session.memory.write_page(pfn, salt=1)  # the guest has lost track, and uses them
        session.batch(Command.BATCHED_LOCK, pfns)
        session.must_keep(pfns, "that the guest took to be its own")
        return f"{len(pfns)} pages written between two locks, all kept"


@SUITE.check("V-P4", Level.PITFALL, "two blocks that are one, and half a block, harm no neighbour")
def odd_blocks(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(3 * HUGE_PAGES, align=BLOCK_BYTES)
        head = pfns[HUGE_PAGES]
        statuses = session.batch(Command.BATCHED_2M_LOCK, [head, head, head + 1, head - 256])
        wanted = [Status.SUCCESS, Status.PPN_LOCKED, Status.PPN_INVALID, Status.PPN_INVALID]
        expect("entries", statuses, wanted)
        expect("the balloon", session.host.actual_pages, HUGE_PAGES)
        session.must_keep(pfns[:HUGE_PAGES] + pfns[2 * HUGE_PAGES :], "beside a block")
        return "of four one is locked, and both neighbours are kept"


@SUITE.check("V-P5", Level.PITFALL, "what waits is dropped though the guest gives and takes on")
def busy_guest(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        given, others = session.memory.pages(256), session.memory.pages(64)
        session.batch(Command.BATCHED_LOCK, given)
        for _ in range(20):
            session.batch(Command.BATCHED_LOCK, others)
            session.batch(Command.BATCHED_UNLOCK, others)
        session.must_drop(given)
        session.must_keep(others, "given and taken back 20 times")
        return f"{len(given)} dropped, {len(others)} that came and went kept"


@SUITE.check("V-P6", Level.PITFALL, "thousands of senseless calls lose none of the guest's pages")
def senseless_calls(rig: HostRig) -> str:
    with rig.session() as session:
        pfns = session.memory.pages(128)
        session.write_batch([(1 << 52) - 1 - i for i in range(512)])
        number = 1
        for _ in range(_CALLS):
            number = number * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
            command, first, second = number >> 59, number >> 53 & 31, number >> 47 & 31
            arg1 = session.batch_pfn if first >= len(_WORDS) else _WORDS[first]
            session.call(command, arg1, _WORDS[second % len(_WORDS)])
        session.host.rest()
        expect("pages of it that are lost", len(pfns) - len(session.memory.kept(pfns)), 0)
        return f"{_CALLS} calls; " + session.works()
