"""Checks of pages that a VMware host locks and unlocks: one by one, in batches, in blocks."""

from __future__ import annotations

from ballonet.conform.checks import Failed, Level, Suite, expect
from ballonet.conform.vmware.host_rig import HostRig
from ballonet.conform.vmware.host_session import BLOCK_BYTES, status_name
from ballonet.vmware.calls import BATCH_ENTRIES_MAX, HUGE_PAGES, Command, Status

__all__ = ["SUITE"]

SUITE: Suite[HostRig] = Suite()


@SUITE.check("V-L1", Level.SHOULD, "memory of locked pages goes back to the host, and no other")
def locked_pages_are_dropped(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(128)
        given, others = pfns[::2], pfns[1::2]
        for pfn in given:
            expect("LOCK", session.lock(pfn), Status.SUCCESS)
        session.must_drop(given)
        expect("pages between them that are kept", len(session.memory.kept(others)), len(others))
        expect("the balloon", session.host.actual_pages, len(given))
        return f"{len(given)} given pages dropped, {len(others)} between them kept"


@SUITE.check("V-L2", Level.MUST, "a page is left alone once its unlock is answered")
def unlocked_pages_are_left_alone(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(64)
        for pfn in pfns:
            session.lock(pfn)
        for pfn in pfns:
            expect("UNLOCK", session.unlock(pfn), Status.SUCCESS)
        session.must_keep(pfns, "after their unlock was answered")
        expect("the balloon", session.host.actual_pages, 0)
        return f"{len(pfns)} pages written right after the answer, all kept"


@SUITE.check("V-L3", Level.MUST, "a page that is locked already is PPN_LOCKED, and counts once")
def locked_twice(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        (pfn,) = session.memory.pages(1)
        session.lock(pfn)
        expect("the second LOCK", status_name(session.lock(pfn)), "PPN_LOCKED")
        expect("the balloon", session.host.actual_pages, 1)
        return "PPN_LOCKED, and the balloon has one page"


@SUITE.check("V-L4", Level.MUST, "a page that is not locked is PPN_UNLOCKED, and stays the guest's")
def never_locked(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(2)
        expect("UNLOCK", status_name(session.unlock(pfns[0])), "PPN_UNLOCKED")
        session.lock(pfns[1])
        session.unlock(pfns[1])
        expect("a second UNLOCK", status_name(session.unlock(pfns[1])), "PPN_UNLOCKED")
        session.must_keep(pfns, "that were not locked")
        return "PPN_UNLOCKED, of a page never given and of one given back"


@SUITE.check("V-L5", Level.MUST, "a page number that names no memory is PPN_INVALID")
def no_such_page(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        end = session.end_pfn
        singles = [end, end + 1, (1 << 32) - 1]
        for pfn in singles:
            for status in (session.lock(pfn), session.unlock(pfn)):
                expect(f"page {pfn:#x}", status_name(status), "PPN_INVALID")
        wide = [end, 1 << 40, (1 << 52) - 1]
        for command in (Command.BATCHED_LOCK, Command.BATCHED_UNLOCK):
            statuses = session.batch(command, wide)
            expect(command.name, statuses, [Status.PPN_INVALID] * len(wide))
        expect("the balloon", session.host.actual_pages, 0)
        return f"page {end:#x} and {len(singles) + len(wide) - 2} beyond"


@SUITE.check("V-L6", Level.MUST, "a page that the host refuses stays the guest's")
def refused(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(64)
        pinned, others = pfns[::2], pfns[1::2]
        session.host.pin(pinned)
        statuses = session.batch(Command.BATCHED_LOCK, pfns)
        if any(status == Status.SUCCESS for status in statuses[::2]):
            raise Failed("a pinned page was locked")
        session.must_keep(pinned, "though they were refused")
        session.must_drop(others)
        return f"{len(pinned)} are {status_name(statuses[0])} and kept, {len(others)} dropped"


@SUITE.check("V-L7", Level.MUST, "a page that the host does not unlock stays locked")
def kept(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(2)
        for pfn in pfns:
            session.lock(pfn)
        session.host.keep(pfns[:1])
        statuses = [session.unlock(pfn) for pfn in pfns]
        if statuses[0] == Status.SUCCESS:
            raise Failed("the page that it keeps was unlocked")
        expect("UNLOCK of the other", statuses[1], Status.SUCCESS)
        expect("the balloon", session.host.actual_pages, 1)
        return f"answered {status_name(statuses[0])}, and still in the balloon"


@SUITE.check("V-L8", Level.MUST, "what is given beyond the target is PPN_NOTNEEDED")
def beyond_target(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        session.host.set_target(10)
        pfns = session.memory.pages(16)
        statuses = session.batch(Command.BATCHED_LOCK, pfns)
        expect("entries", statuses, [Status.SUCCESS] * 10 + [Status.PPN_NOTNEEDED] * 6)
        session.must_keep(pfns[10:], "that were not needed")
        return "10 of 16 are locked, 6 are PPN_NOTNEEDED and kept"


@SUITE.check("V-B1", Level.MUST, "each entry of a batch has a verdict of its own, and only that")
def verdicts(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(4)
        session.host.pin(pfns[2:3])
        session.lock(pfns[1])
        batch = [pfns[0], pfns[1], pfns[2], session.end_pfn, pfns[3]]
        seen = [status_name(one) for one in session.batch(Command.BATCHED_LOCK, batch)]
        wanted = ["SUCCESS", "PPN_LOCKED", "PPN_PINNED", "PPN_INVALID", "SUCCESS"]
        expect("entries", seen, wanted)
        return ", ".join(seen)


@SUITE.check("V-B2", Level.MUST, "a full batch of 512 pages is locked and unlocked in two calls")
def full_batch(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(BATCH_ENTRIES_MAX)
        expect("locked", set(session.batch(Command.BATCHED_LOCK, pfns)), {Status.SUCCESS})
        session.must_drop(pfns)
        expect("unlocked", set(session.batch(Command.BATCHED_UNLOCK, pfns)), {Status.SUCCESS})
        session.must_keep(pfns, "after a batch unlocked them")
        return f"{len(pfns)} pages dropped, and kept when they came back"


@SUITE.check("V-B3", Level.MUST, "a batch that cannot be is refused as a whole, and does nothing")
def impossible_batches(rig: HostRig) -> str:
    with rig.session() as session:
        pfns = session.memory.pages(BATCH_ENTRIES_MAX)
        tries = [
            *((session.batch_pfn, count) for count in (0, 513, 1 << 32, (1 << 64) - 1)),
            *((pfn, 1) for pfn in (session.end_pfn, 1 << 32, (1 << 52) - 1, (1 << 64) - 1)),
        ]
        for page, count in tries:
            session.start()
            session.write_batch(pfns)
            if session.call(Command.BATCHED_LOCK, page, count).status == Status.SUCCESS:
                raise Failed(f"{count} entries in page {page:#x} are served")
        session.must_keep(pfns, "that were in no batch that can be")
        return f"{len(tries)} of them; " + session.works()


@SUITE.check("V-M1", Level.MUST, "a block of 2 MiB is 512 pages, given and had back at once")
def block(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(2 * HUGE_PAGES, align=BLOCK_BYTES)
        heads = pfns[::HUGE_PAGES]
        expect("locked", session.batch(Command.BATCHED_2M_LOCK, heads), [Status.SUCCESS] * 2)
        expect("the balloon", session.host.actual_pages, 2 * HUGE_PAGES)
        session.must_drop(pfns)
        expect("unlocked", session.batch(Command.BATCHED_2M_UNLOCK, heads), [Status.SUCCESS] * 2)
        session.must_keep(pfns, "after their blocks were unlocked")
        return f"2 blocks: {len(pfns)} pages dropped, and kept when they came back"


@SUITE.check("V-M2", Level.MUST, "a block with a page that is locked, or beyond memory, is refused")
def impossible_blocks(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(HUGE_PAGES, align=BLOCK_BYTES)
        session.lock(pfns[100])
        batch = [pfns[0], session.end_pfn, (1 << 52) - 1]
        seen = [status_name(one) for one in session.batch(Command.BATCHED_2M_LOCK, batch)]
        expect("entries", seen, ["PPN_LOCKED", "PPN_INVALID", "PPN_INVALID"])
        expect("the balloon", session.host.actual_pages, 1)
        session.must_keep(pfns[:100] + pfns[101:], "of a block that was refused")
        return ", ".join(seen)


@SUITE.check("V-M3", Level.MUST, "a page is unlocked as it was locked, alone or in its block")
def unlocked_as_locked(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(2 * HUGE_PAGES, align=BLOCK_BYTES)
        session.batch(Command.BATCHED_2M_LOCK, pfns[:1])
        session.batch(Command.BATCHED_LOCK, pfns[HUGE_PAGES:])
        expect("a page of a block", status_name(session.unlock(pfns[5])), "PPN_UNLOCKED")
        (status,) = session.batch(Command.BATCHED_2M_UNLOCK, pfns[HUGE_PAGES : HUGE_PAGES + 1])
        expect("a block of pages", status_name(status), "PPN_UNLOCKED")
        expect("the balloon", session.host.actual_pages, 2 * HUGE_PAGES)
        return "the other way is PPN_UNLOCKED, and changes nothing"
