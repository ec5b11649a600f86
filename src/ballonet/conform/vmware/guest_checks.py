"""Checks of what a driver of VMware's balloon does under a host that is right."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Failed, Level, NotApplicable, Suite, expect
from ballonet.conform.vmware.guest_session import (
    GuestRig,
    GuestSession,
    check_accounts,
    fill,
    wait_for_questions,
)
from ballonet.conform.vmware.scripted_host import LOCKS, UNLOCKS, ScriptedHost, removes_doorbell
from ballonet.vmware.calls import (
    ALL_CAPABILITIES,
    BATCH_ENTRIES_MAX,
    GUEST_ID_LINUX,
    HUGE_PAGES,
    NO_CAPABILITIES,
    Answer,
    Call,
    Capability,
    Command,
    Status,
)

__all__ = ["SUITE"]

SUITE: Suite[GuestRig] = Suite()

_BATCHED: Final = Capability.BASIC | Capability.BATCHED
_SAMPLE: Final = 64


@SUITE.check("VG-S1", Level.MUST, "STARTs, says what it is, and only then asks for its target")
def begins(rig: GuestRig) -> str:
    with rig.session() as session:
        wait_for_questions(session, 1)
        record = [one for one in session.host.record if one.answer.status != Status.RESET]
        names = [Command(one.command).name for one in record]
        start = names.index("START")
        for one in record[:start]:
            if not removes_doorbell(one.call):
                raise Failed(f"before START comes {Command(one.command).name}")
        first = names.index("GET_TARGET")
        if "GUEST_ID" not in names[start:first]:
            raise Failed(f"its first calls are {', '.join(names[: first + 1])}")
        told = session.host.said(Command.GUEST_ID)[-1].call.arg1
        expect("what it says it is", told, GUEST_ID_LINUX)
        return ", ".join(names[start : first + 1])


@SUITE.check("VG-T1", Level.MUST, "asks for its target once a second")
def asks_each_second(rig: GuestRig) -> str:
    with rig.session() as session:
        wait_for_questions(session, 2)
        if not session.is_timed:
            return "it asks again and again; how often is not measured here"
        before = len(session.host.said(Command.GET_TARGET))
        session.rest(60)
        asked = len(session.host.said(Command.GET_TARGET)) - before
        if not 55 <= asked <= 61:
            raise Failed(f"{asked} times in 60 s")
        return f"{asked} times in 60 s"


@SUITE.check("VG-T2", Level.MUST, "tells with its question how much memory it has")
def tells_limit(rig: GuestRig) -> str:
    with rig.session() as session:
        fill(session, 1000)
        wait_for_questions(session, 1)
        limits = {one.call.arg1 for one in session.host.said(Command.GET_TARGET)}
        if len(limits) != 1:
            raise Failed(f"it tells {sorted(limits)}, though it is the same guest")
        (limit,) = limits
        if not session.memory_pages // 2 <= limit <= session.memory_pages:
            raise Failed(f"{limit} pages, of {session.memory_pages}")
        return f"{limit} pages, of a machine with {session.memory_pages}"


@SUITE.check("VG-C1", Level.MUST, "uses the commands that it was granted, and no others")
def uses_what_is_granted(rig: GuestRig) -> str:
    used = []
    for offered, pages in ((Capability.BASIC, 20), (_BATCHED, 1200), (ALL_CAPABILITIES, 1200)):
        with rig.session(offered) as session:
            fill(session, pages)
            used.append(_names(session, LOCKS))
            fill(session, 0)
    expect("the first two ways to lock", used[:2], ["LOCK", "BATCHED_LOCK"])
    return "; then ".join(used)


@SUITE.check("VG-I1", Level.MUST, "gives what is wanted, each page once, 512 in a call at most")
def inflates(rig: GuestRig) -> str:
    with rig.session(_BATCHED) as session:
        start = len(session.host.record)
        expect("the balloon", fill(session, 3000), 3000)
        sizes = [len(one.heads) for one in session.host.said(*LOCKS, start=start)]
        if max(sizes) > BATCH_ENTRIES_MAX:
            raise Failed(f"a call of {max(sizes)} pages")
        return f"3000 pages in calls of {', '.join(map(str, sizes))}"


@SUITE.check("VG-I2", Level.SHOULD, "gives blocks of 2 MiB as long as there are some")
def gives_blocks(rig: GuestRig) -> str:
    with rig.session() as session:
        start = len(session.host.record)
        pages = fill(session, 4 * HUGE_PAGES)
        locks = session.host.said(*LOCKS, start=start)
        expect("the first lock", Command(locks[0].command).name, "BATCHED_2M_LOCK")
        blocks = sum(len(one.accepted) for one in locks if one.pages == HUGE_PAGES)
        return f"{blocks} blocks of {pages} pages"


@SUITE.check("VG-D1", Level.MUST, "shrinks to nothing if nothing is wanted")
def deflates(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        fill(session, 3000)
        start = len(session.host.record)
        expect("the balloon", fill(session, 0), 0)
        back = sum(len(one.accepted_pages) for one in session.host.said(*UNLOCKS, start=start))
        missing = before - session.free_pages
        if abs(missing) > session.free_doubt_pages:
            raise Failed(f"{missing} pages are missing in the guest")
        return f"{back} pages unlocked by {_names(session, UNLOCKS)}, and none is missing"


@SUITE.check("VG-D2", Level.MUST, "does not shrink by less than 512 pages, unless to nothing")
def slack(rig: GuestRig) -> str:
    with rig.session(_BATCHED) as session:
        fill(session, 3000)
        start = len(session.host.record)
        session.tell(lambda host: host.set_target(3001 - HUGE_PAGES))
        wait_for_questions(session, 3)
        if session.host.said(*UNLOCKS, start=start):
            raise Failed("pages are unlocked for a target 511 below")
        session.tell(lambda host: host.set_target(3000 - 2 * HUGE_PAGES))
        if not session.until(lambda: session.balloon_pages < 3000):
            raise Failed("it does not shrink by 1024")
        fill(session, 300)
        expect("the balloon", fill(session, 0), 0)
        return "511 below: it stays; 1024 below: it shrinks; 300, and 0: to 0"


@SUITE.check("VG-O1", Level.MUST, "does not touch a page that is the host's")
def leaves_pages_alone(rig: GuestRig) -> str:
    with rig.session() as session:
        fill(session, 3000)
        locked = sorted(check_accounts(session))
        sample = locked[:: max(1, len(locked) // _SAMPLE)]
        session.tell(lambda host: host.scribble(sample))
        if not session.is_alive():
            raise Failed("a program in the guest does not do its work")
        wait_for_questions(session, 2)
        touched = session.tell(lambda host: [p for p in sample if not host.is_scribbled(p)])
        expect("touched", touched, [])
        fill(session, 0)
        return f"{len(sample)} of {len(locked)} pages that the host wrote on are as it left them"


@SUITE.check("VG-R1", Level.MUST, "begins anew when it hears RESET, and tells of no page before")
def resets(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        pages = fill(session, 3000)
        start = len(session.host.record)
        session.tell(_reset_to_nothing)
        _wait_for_start(session, start, "again")
        expect("unlocks", len(session.host.said(*UNLOCKS, start=start)), 0)
        wait_for_questions(session, 1)
        expect("the balloon", len(check_accounts(session)), 0)
        if abs(before - session.free_pages) > session.free_doubt_pages:
            raise Failed(f"{before - session.free_pages} pages are missing in the guest")
        fill(session, 3000)
        fill(session, 0)
        return f"{pages} pages freed without a word; then it fills its balloon again"


@SUITE.check("VG-R2", Level.MUST, "hears RESET in the answer to whatever it asks")
def resets_anywhere(rig: GuestRig) -> str:
    with rig.session(_BATCHED) as session:
        for command in (Command.BATCHED_LOCK, Command.BATCHED_UNLOCK, Command.GET_TARGET):
            fill(session, 1000)
            start = len(session.host.record)
            _reset_once(session, command)
            session.tell(lambda host: host.set_target(2000 if host.actual_pages else 1000))
            if command is Command.BATCHED_UNLOCK:
                session.tell(lambda host: host.set_target(0))
            _wait_for_start(session, start, f"after {command.name}")
            fill(session, 1000)
        fill(session, 0)
        return "of a lock, of an unlock, of the target"


@SUITE.check("VG-F1", Level.MUST, "gives up for now when 16 pages are refused, and frees them")
def gives_up(rig: GuestRig) -> str:
    with rig.session(_BATCHED) as session:
        before = session.free_pages
        start = len(session.host.record)
        session.tell(lambda host: host.play(_refuse))
        session.tell(lambda host: host.set_target(3000))
        wait_for_questions(session, 5)
        locks = session.host.said(*LOCKS, start=start)
        asked = len(session.host.said(Command.GET_TARGET, start=start))
        if not locks or len(locks) > asked:
            raise Failed(f"{len(locks)} locks with {asked} questions for the target")
        expect("the balloon", session.actual_pages, 0)
        missing = before - session.free_pages
        if abs(missing) > max(session.free_doubt_pages, 0):
            raise Failed(f"{missing} refused pages are not freed")
        _be_right(session)
        fill(session, 3000)
        fill(session, 0)
        return f"{len(locks)} calls, one a second, all refused; no page is missing"


@SUITE.check("VG-F2", Level.MUST, "a refused block is split, and its pages are offered first")
def splits(rig: GuestRig) -> str:
    with rig.session() as session:
        start = len(session.host.record)
        session.tell(lambda host: host.play(_refuse_blocks))
        session.tell(lambda host: host.set_target(HUGE_PAGES * 32))
        if not session.until(lambda: bool(session.host.said(Command.BATCHED_LOCK, start=start))):
            raise Failed("single pages are not tried")
        blocks = session.host.said(Command.BATCHED_2M_LOCK, start=start)
        heads = {head for one in blocks for head in one.heads}
        first = session.host.said(Command.BATCHED_LOCK, start=start)[0].heads
        others = [pfn for pfn in first if pfn - pfn % HUGE_PAGES not in heads]
        expect("pages of no refused block", len(others), 0)
        _be_right(session)
        fill(session, 0)
        return f"{len(heads)} blocks refused; {len(first)} pages of them come next"


@SUITE.check("VG-F3", Level.MUST, "a page that the host does not unlock stays in the balloon")
def stays(rig: GuestRig) -> str:
    with rig.session(_BATCHED) as session:
        pages = fill(session, 1000)
        session.tell(lambda host: host.play(_keep))
        session.tell(lambda host: host.set_target(0))
        wait_for_questions(session, 3)
        expect("the balloon", len(check_accounts(session)), pages)
        _be_right(session)
        expect("the balloon afterwards", fill(session, 0), 0)
        return f"{pages} pages stay; unlocked as soon as they can be"


@SUITE.check("VG-P1", Level.MUST, "a page that moves is unlocked before another is locked for it")
def moves(rig: GuestRig) -> str:
    with rig.session(_BATCHED) as session:
        fill(session, 500)
        start = len(session.host.record)
        session.compact()
        moved = session.host.said(*LOCKS, *UNLOCKS, start=start)
        if not moved:
            raise NotApplicable("no page of the balloon had to move")
        names = ["lock" if one.command in LOCKS else "unlock" for one in moved]
        expect("the order", names, ["unlock", "lock"] * (len(names) // 2))
        expect("the balloon", len(check_accounts(session)), 500)
        fill(session, 0)
        return f"{len(names) // 2} pages moved, each unlocked first"


@SUITE.check("VG-P2", Level.MUST, "if a page that moves is not taken the balloon is smaller by it")
def moves_in_vain(rig: GuestRig) -> str:
    with rig.session(_BATCHED) as session:
        before = session.free_pages
        fill(session, 500)
        session.tell(lambda host: host.play(_refuse))
        session.compact()
        left = len(check_accounts(session))
        if left == 500:
            raise NotApplicable("no page of the balloon had to move")
        _be_right(session)
        fill(session, 0)
        if abs(before - session.free_pages) > session.free_doubt_pages:
            raise Failed(f"{before - session.free_pages} pages are missing in the guest")
        return f"{500 - left} pages fewer, and none is missing"


@SUITE.check("VG-B1", Level.SHOULD, "asks at once when its doorbell is rung")
def doorbell(rig: GuestRig) -> str:
    with rig.session() as session:
        wait_for_questions(session, 1)
        before = len(session.host.said(Command.GET_TARGET))
        session.ring()
        if not session.host.describe()["doorbell"]:
            raise Failed("it sets no doorbell, though one was granted")
        session.rest(0.01)
        expect("questions within 10 ms", len(session.host.said(Command.GET_TARGET)) - before, 1)
        return "one question, at once"


@SUITE.check("VG-M1", Level.MUST, "after it gave way it does not grow for 5 s")
def waits_after_shrinking(rig: GuestRig) -> str:
    with rig.session(_BATCHED, shrinks=True) as session:
        fill(session, 3000)
        start = len(session.host.record)
        session.press()
        unlocks = session.host.said(*UNLOCKS, start=start)
        if not unlocks:
            raise Failed("it does not give way")
        session.until(lambda: session.balloon_pages == 3000)
        later = [
            one for one in session.host.said(*LOCKS, start=start) if one.at_ns > unlocks[0].at_ns
        ]
        if not later:
            raise Failed("it does not grow again")
        pause_s = (later[0].at_ns - unlocks[-1].at_ns) / 1e9
        if pause_s < 5:
            raise Failed(f"it grows again after {pause_s:.1f} s")
        return f"grows again after {pause_s:.1f} s"


@SUITE.check("VG-X1", Level.MUST, "a driver that leaves STARTs with nothing, and frees all pages")
def leaves(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        pages = fill(session, 3000)
        start = len(session.host.record)
        session.leave()
        last = session.host.record[-1].call
        expect("the last call", last[:2], (Command.START, NO_CAPABILITIES))
        expect("unlocks", len(session.host.said(*UNLOCKS, start=start)), 0)
        if not any(removes_doorbell(one.call) for one in session.host.record[start:]):
            raise Failed("its doorbell is not removed")
        if session.free_pages < before:
            raise Failed(f"{before - session.free_pages} pages are missing in the guest")
        return f"{pages} pages freed without a word, after START of nothing"


def _names(session: GuestSession, commands: tuple[Command, ...]) -> str:
    """The commands of a kind that were used, in the order of their first use."""
    used = dict.fromkeys(Command(one.command).name for one in session.host.said(*commands))
    return ", ".join(used)


def _wait_for_start(session: GuestSession, start: int, when: str) -> None:
    """Raises: Failed, if there is no START from a place in the record on."""
    if not session.until(lambda: bool(session.host.said(Command.START, start=start))):
        raise Failed(f"it does not START {when}")


def _reset_to_nothing(host: ScriptedHost) -> None:
    host.set_target(0)
    host.reset_guest()


def _reset_once(session: GuestSession, command: Command) -> None:
    """Answer RESET to the next call of a kind, and mean it."""

    def script(host: ScriptedHost, call: Call) -> None:
        if call.command == command:
            host.play(None)
            host.reset_guest()

    session.tell(lambda host: host.play(script))


def _refuse(host: ScriptedHost, call: Call) -> Answer | None:
    """No page can be locked."""
    if call.command not in LOCKS:
        return None
    host.write_statuses(call, Status.PPN_PINNED)
    status = Status.PPN_PINNED if call.command == Command.LOCK else Status.SUCCESS
    return Answer(status, host.target_pages)


def _refuse_blocks(host: ScriptedHost, call: Call) -> Answer | None:
    return _refuse(host, call) if call.command == Command.BATCHED_2M_LOCK else None


def _keep(host: ScriptedHost, call: Call) -> Answer | None:
    """No page can be unlocked."""
    if call.command not in UNLOCKS:
        return None
    host.write_statuses(call, Status.BUSY)
    status = Status.BUSY if call.command == Command.UNLOCK else Status.SUCCESS
    return Answer(status, host.target_pages)


def _be_right(session: GuestSession) -> None:
    session.tell(lambda host: host.play(None))
