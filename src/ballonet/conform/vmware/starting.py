"""Checks of how a VMware host begins with a driver, wakes it, and has it begin anew."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Failed, Level, Suite, expect
from ballonet.conform.vmware.host_rig import HostRig
from ballonet.conform.vmware.host_session import HostSession, status_name
from ballonet.vmware.calls import (
    ALL_CAPABILITIES,
    GUEST_ID_LINUX,
    INVALID_ID,
    NO_CAPABILITIES,
    Capability,
    Command,
    Status,
)

__all__ = ["SUITE"]

SUITE: Suite[HostRig] = Suite()

_BATCHED: Final = Capability.BASIC | Capability.BATCHED
_WIDE_TARGET: Final = (1 << 32) + 5
_U32_MAX: Final = (1 << 32) - 1


@SUITE.check("V-S1", Level.MUST, "START grants nothing that the driver did not want")
def grants_what_is_wanted(rig: HostRig) -> str:
    with rig.session() as session:
        for wanted in (Capability.BASIC, _BATCHED, ALL_CAPABILITIES):
            granted = session.start(wanted)
            if granted & ~wanted:
                raise Failed(f"{granted:#x} is granted to who wants {wanted:#x}")
        return f"of three wishes the last, {ALL_CAPABILITIES:#x}, is granted {granted:#x}"


@SUITE.check("V-S2", Level.MUST, "what is granted to a basic driver are the basic commands")
def basic_commands(rig: HostRig) -> str:
    with rig.session() as session:
        expect("granted", session.start(Capability.BASIC), Capability.BASIC)
        (pfn,) = session.memory.pages(1)
        expect("LOCK", session.lock(pfn), Status.SUCCESS)
        expect("UNLOCK", session.unlock(pfn), Status.SUCCESS)
        return "LOCK and UNLOCK are served"


@SUITE.check("V-S3", Level.MUST, "a driver that STARTs has all memory, whatever was locked before")
def start_unlocks(rig: HostRig) -> str:
    with rig.session() as session:
        pfns = _locked(session, 64)
        session.start()
        session.must_keep(pfns, "that another driver had locked")
        expect("the balloon", session.host.actual_pages, 0)
        return f"{len(pfns)} pages written after START, all kept"


@SUITE.check("V-S4", Level.MUST, "a driver that wants nothing takes leave, with all of its memory")
def leave(rig: HostRig) -> str:
    with rig.session() as session:
        pfns = _locked(session, 64)
        session.start(NO_CAPABILITIES)
        session.must_keep(pfns, "of a driver that left")
        expect("the balloon", session.host.actual_pages, 0)
        return f"{len(pfns)} pages written after START of nothing, all kept"


@SUITE.check("V-S5", Level.MUST, "no page is locked before a driver has STARTed")
def nothing_before_start(rig: HostRig) -> str:
    with rig.session() as session:
        (pfn,) = session.memory.pages(1)
        status = session.lock(pfn)
        if status == Status.SUCCESS:
            raise Failed("a page was locked")
        session.must_keep([pfn], "before START")
        return f"LOCK is answered {status_name(status)}, and the page is kept"


@SUITE.check("V-C1", Level.MUST, "a command that was not granted is refused and does nothing")
def not_granted(rig: HostRig) -> str:
    with rig.session() as session:
        session.start(Capability.BASIC)
        pfns = session.memory.pages(512, align=2 << 20)
        for command in (Command.BATCHED_LOCK, Command.BATCHED_2M_LOCK):
            session.write_batch(pfns[:1])
            if session.call(command, session.batch_pfn, 1).status == Status.SUCCESS:
                raise Failed(f"{command.name} is served")
        session.must_keep(pfns, "that no granted command gave")
        return "batches are refused, and their pages kept"


@SUITE.check("V-C2", Level.MUST, "a command that there is not is answered CMD_INVALID")
def unknown_commands(rig: HostRig) -> str:
    with rig.session() as session:
        for command in (5, 11, 99, _U32_MAX):
            session.start()
            status = session.call(command, 1, 1).status
            expect(f"command {command}", status_name(status), "CMD_INVALID")
        return "5, 11, 99 and 4294967295; " + session.works()


@SUITE.check("V-T1", Level.MUST, "GET_TARGET tells the target")
def tells_target(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        told = []
        for target in (0, 1, 12345):
            session.host.set_target(target)
            answer = session.call(Command.GET_TARGET, session.end_pfn)
            expect(f"a target of {target}", answer, (Status.SUCCESS, target))
            told.append(answer.result)
        return f"{', '.join(map(str, told))}"


@SUITE.check("V-T2", Level.MUST, "every answer to a lock or an unlock tells the target")
def piggy_back(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        pfns = session.memory.pages(512, align=2 << 20)
        session.host.set_target(7777)
        single = (Command.LOCK, Command.UNLOCK)
        seen = [session.call(command, pfns[0], 1).result for command in single]
        for command in (
            *(Command.BATCHED_LOCK, Command.BATCHED_UNLOCK),
            *(Command.BATCHED_2M_LOCK, Command.BATCHED_2M_UNLOCK),
        ):
            session.write_batch(pfns[:1])
            seen.append(session.call(command, session.batch_pfn, 1).result)
        expect("results", seen, [7777] * 6)
        return "six commands, six times 7777"


@SUITE.check("V-T3", Level.MUST, "a driver of 32 bits is told of no target that it cannot hold")
def narrow_target(rig: HostRig) -> str:
    with rig.session() as session:
        session.host.set_target(_WIDE_TARGET)
        session.need(session.start(), Capability.TARGET_64)
        wide = session.call(Command.GET_TARGET, session.end_pfn).result
        expect("with 64 bits", wide, _WIDE_TARGET)
        session.start(_BATCHED)
        narrow = session.call(Command.GET_TARGET, session.end_pfn).result
        expect("with 32 bits", narrow, _U32_MAX)
        return f"of {_WIDE_TARGET}: {wide}, and {narrow} without the capability"


@SUITE.check("V-G1", Level.MUST, "the guest's kind is heard")
def guest_id(rig: HostRig) -> str:
    with rig.session() as session:
        session.start()
        status = session.call(Command.GUEST_ID, GUEST_ID_LINUX).status
        expect("GUEST_ID", status_name(status), "SUCCESS")
        return "answered SUCCESS"


@SUITE.check("V-D1", Level.SHOULD, "the doorbell is rung when the target changes, by its two ids")
def doorbell(rig: HostRig) -> str:
    with rig.session() as session:
        session.need(session.start(), Capability.DOORBELL)
        expect("the call", session.call(Command.VMCI_DOORBELL_SET, 3, 44).status, Status.SUCCESS)
        before = len(session.host.rings())
        session.host.set_target(100)
        rung = session.host.rings()[before:]
        expect("rung", rung, [(3, 44)])
        return "once, with context 3 and resource 44"


@SUITE.check("V-D2", Level.MUST, "a doorbell that was removed, or whose driver left, is not rung")
def no_doorbell(rig: HostRig) -> str:
    with rig.session() as session:
        session.need(session.start(), Capability.DOORBELL)
        for invalid in (INVALID_ID, (1 << 64) - 1):  # Linux's is as wide as a register
            session.call(Command.VMCI_DOORBELL_SET, 3, 44)
            session.call(Command.VMCI_DOORBELL_SET, invalid, invalid)
            session.host.set_target(100)
        session.call(Command.VMCI_DOORBELL_SET, 3, 44)
        session.start(NO_CAPABILITIES)
        session.host.set_target(200)
        expect("rung", session.host.rings(), [])
        return "neither after invalid ids, nor after leave"


@SUITE.check("V-R1", Level.MUST, "after a reset every call but START is answered RESET")
def reset(rig: HostRig) -> str:
    with rig.session() as session:
        pfns = _locked(session, 64)
        session.host.reset_guest()
        calls = [one for one in Command if one is not Command.START]
        for command in calls:
            session.write_batch(pfns[:1])
            batched = Command.BATCHED_LOCK <= command <= Command.BATCHED_2M_UNLOCK
            status = session.call(command, session.batch_pfn if batched else pfns[0], 1).status
            expect(command.name, status_name(status), "RESET")
        return f"{len(calls)} commands; after START " + session.works()


@SUITE.check("V-R2", Level.MUST, "after a reset all pages are the guest's, and none can be locked")
def reset_unlocks(rig: HostRig) -> str:
    with rig.session() as session:
        pfns = _locked(session, 64)
        session.host.reset_guest()
        others = session.memory.pages(8)
        session.write_batch(others)
        session.call(Command.BATCHED_LOCK, session.batch_pfn, len(others))
        session.must_keep([*pfns, *others], "by a driver that was told to begin anew")
        session.start()
        expect("the balloon", session.host.actual_pages, 0)
        return f"{len(pfns)} locked pages and {len(others)} in a call that was refused, all kept"


def _locked(session: HostSession, count: int) -> list[int]:
    """So many pages, locked one by one. Raises: Failed."""
    session.start()
    pfns = session.memory.pages(count)
    refused = [pfn for pfn in pfns if session.lock(pfn) != Status.SUCCESS]
    expect("pages refused", len(refused), 0)
    return pfns
