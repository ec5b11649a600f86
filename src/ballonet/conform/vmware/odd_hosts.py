"""Checks of how a driver of VMware's balloon bears a host that is wrong, hostile or silent.

Whatever the host answers, the guest goes on to work; and when a right host comes after it, not one
page is missing.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from ballonet.conform.checks import Failed, Level, Suite, expect
from ballonet.conform.vmware.guest_session import (
    GuestRig,
    GuestSession,
    check_accounts,
    fill,
    need_doubt,
    recover,
    wait_for_questions,
)
from ballonet.conform.vmware.scripted_host import LOCKS, UNLOCKS, Script, ScriptedHost
from ballonet.vmware.calls import (
    ALL_CAPABILITIES,
    Answer,
    Call,
    Capability,
    Command,
    Status,
)

__all__ = ["SUITE"]

SUITE: Suite[GuestRig] = Suite()

_BATCHED: Final = Capability.BASIC | Capability.BATCHED
_U32_MAX: Final = (1 << 32) - 1
_U64_MAX: Final = (1 << 64) - 1
_SILENT_S: Final = 600.0
#: Each is a call of its own, where there are no batches.
_FEW_PAGES: Final = 20
_RINGS: Final = 100
_JUMPS: Final = 200
#: A second of a driver that makes no progress may cost so many calls.
_CALLS_PER_S: Final = 20
#: What a guest keeps of its memory whatever its host wants.
_KEPT_PART: Final = 64


@SUITE.check("VG-H1", Level.PITFALL, "RESET in every answer: it tries once a second, and lives")
def reset_in_every_call(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        fill(session, 2000)
        calls = _under(session, lambda _host, _call: Answer(Status.RESET, 0))
        expect("the balloon", session.actual_pages, 0)
        return f"{calls}; {recover(session, before)}"


@SUITE.check("VG-H2", Level.PITFALL, "verdicts that refuse everything, by whatever number")
def verdicts_that_refuse(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        numbers = [Status.CMD_INVALID, Status.PPN_NOTNEEDED, Status.RESET, Status.BUSY, 9, 31]
        for number in numbers:
            session.tell(lambda host: host.set_target(3000))
            _under(session, partial(_give_verdicts, verdict=number))
            expect(f"the balloon, after verdicts of {number}", session.actual_pages, 0)
        return f"{', '.join(map(str, map(int, numbers)))}; {recover(session, before)}"


@SUITE.check("VG-H3", Level.PITFALL, "statuses that no call has are failures")
def unknown_statuses(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        numbers = [9, 31, Status.SUCCESS_WITH_CAPABILITIES, _U32_MAX]
        for number in numbers:
            session.tell(lambda host: host.set_target(3000))
            _under(session, partial(_answer_moves, status=number))
            expect(f"the balloon, after statuses of {number:#x}", session.actual_pages, 0)
        return f"{', '.join(f'{one:#x}' for one in numbers)}; {recover(session, before)}"


@SUITE.check("VG-H4", Level.PITFALL, "page numbers that the host changes are not believed")
def changed_entries(rig: GuestRig) -> str:
    with rig.session(_BATCHED) as session:
        need_doubt(session)
        before = session.free_pages

        def change(host: ScriptedHost, call: Call) -> Answer | None:
            if call.command not in LOCKS + UNLOCKS:
                return None
            host.write_entries(call, [(1 << 52) - 1 << 12 | 0xFE0] * min(call.arg2, 512))
            return Answer(Status.SUCCESS, host.target_pages)

        session.tell(lambda host: host.play(change))
        pages = fill(session, 1000)
        fill(session, 0)
        return f"{pages} pages there and back by its own numbers; {recover(session, before)}"


@SUITE.check("VG-H5", Level.PITFALL, "a target beyond all memory: it gives what it can, and lives")
def absurd_target(rig: GuestRig) -> str:
    with rig.session() as session:
        need_doubt(session)
        before = session.free_pages
        session.tell(lambda host: host.set_target(_U64_MAX))
        wait_for_questions(session, 5)
        given = len(check_accounts(session))
        if session.free_pages < session.memory_pages // _KEPT_PART:
            raise Failed(f"{session.free_pages} free pages are left of {session.memory_pages}")
        if not session.is_alive():
            raise Failed("a program in the guest does not do its work any more")
        left = session.free_pages
        return f"{given} pages given, {left} left free; {recover(session, before)}"


@SUITE.check("VG-H6", Level.PITFALL, "a host that accepts no START is asked once a second")
def start_refused(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        fill(session, 1000)
        session.tell(lambda host: host.reset_guest())
        calls = _under(
            session,
            lambda _host, call: (
                Answer(Status.CMD_INVALID, 0) if call.command == Command.START else None
            ),
        )
        expect("the balloon", session.actual_pages, 0)
        return f"{calls}; {recover(session, before)}"


@SUITE.check("VG-H7", Level.PITFALL, "more is granted than there is: only what it wanted is used")
def grants_everything(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages

        def grant(host: ScriptedHost, call: Call) -> Answer | None:
            if call.command != Command.START:
                return None
            host.start_honestly(call)
            return Answer(Status.SUCCESS_WITH_CAPABILITIES, _U64_MAX)

        session.tell(lambda host: host.play(grant))
        session.tell(lambda host: host.reset_guest())
        wait_for_questions(session, 1)
        pages = fill(session, 1000)
        fill(session, 0)
        return f"{pages} pages there and back; {recover(session, before)}"


@SUITE.check("VG-H8", Level.PITFALL, "blocks of 2 MiB without batches: single pages are locked")
def blocks_without_batches(rig: GuestRig) -> str:
    with rig.session(ALL_CAPABILITIES & ~Capability.BATCHED) as session:
        before = session.free_pages
        start = len(session.host.record)
        fill(session, _FEW_PAGES)
        fill(session, 0)
        commands = {one.command for one in session.host.said(*LOCKS, *UNLOCKS, start=start)}
        expect("commands", commands, {Command.LOCK, Command.UNLOCK})
        return f"LOCK and UNLOCK; {recover(session, before, _FEW_PAGES)}"


@SUITE.check("VG-H9", Level.PITFALL, "another target in every answer: it keeps its accounts")
def jumping_target(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        left = _JUMPS

        def jump(host: ScriptedHost, _: Call) -> None:
            nonlocal left
            left -= 1
            host.set_target(left * 7919 % 5000 if left % 3 else 0)
            if left <= 0:
                host.play(None)

        session.tell(lambda host: host.play(jump))
        if not session.until(lambda: left <= 0):
            raise Failed("it does not call any more")
        wait_for_questions(session, 2)  # what it began with the last target has ended
        check_accounts(session)
        return f"{_JUMPS} targets; {recover(session, before)}"


@SUITE.check("VG-H10", Level.PITFALL, "a target of more than 32 bits is cut to what was agreed")
def wide_target(rig: GuestRig) -> str:
    with rig.session(_BATCHED) as session:
        need_doubt(session)
        before = session.free_pages

        def widen(host: ScriptedHost, call: Call) -> Answer | None:
            if call.command != Command.GET_TARGET:
                return None
            return Answer(Status.SUCCESS, 1 << 32 | host.target_pages)

        session.tell(lambda host: host.play(widen))
        pages = fill(session, 700)
        return f"of {1 << 32 | 700:#x} it gives {pages}; {recover(session, before)}"


@SUITE.check("VG-H11", Level.PITFALL, "no answer at all: the guest goes on, and so does its driver")
def silence(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        session.silence(is_silent=True)
        session.tell(lambda host: host.set_target(2000))
        session.rest(_SILENT_S)
        if not session.is_alive():
            raise Failed("a program in the guest does not do its work")
        session.silence(is_silent=False)
        fill(session, 2000)
        return f"{_SILENT_S:.0f} s without an answer; {recover(session, before)}"


@SUITE.check("VG-H12", Level.PITFALL, "a doorbell that never rests costs no more than a question")
def rings(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        start = len(session.host.record)
        for _ in range(_RINGS):
            session.ring()
        session.rest(0.5)
        calls = len(session.host.record) - start
        if calls > _CALLS_PER_S:
            raise Failed(f"{calls} calls")
        return f"rung {_RINGS} times at once, called {calls} times; {recover(session, before)}"


@SUITE.check("VG-H13", Level.PITFALL, "it can leave a host that refuses even that")
def leaves_a_bad_host(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        fill(session, 2000)
        session.tell(lambda host: host.play(lambda _host, _call: Answer(Status.CMD_INVALID, 0)))
        session.leave()
        if session.free_pages < before:
            raise Failed(f"{before - session.free_pages} pages are missing in the guest")
        return "gone, and no page is missing"


def _under(session: GuestSession, script: Script) -> str:
    """Let a host be wrong from now on, and wait; how much it was called. Raises: Failed."""
    start = len(session.host.record)
    session.tell(lambda host: host.play(script))
    seconds = 10.0
    if session.is_timed:
        session.rest(seconds)
    elif not session.until(lambda: len(session.host.record) > start + 10):
        raise Failed("it does not call any more")
    calls = len(session.host.record) - start
    if session.is_timed and calls > seconds * _CALLS_PER_S:
        raise Failed(f"{calls} calls in {seconds:.0f} s")
    return f"{calls} calls"


def _answer_moves(_: ScriptedHost, call: Call, status: int) -> Answer | None:
    """A status for the whole of a lock or an unlock."""
    return Answer(status, 3000) if call.command in LOCKS + UNLOCKS else None


def _give_verdicts(host: ScriptedHost, call: Call, verdict: int) -> Answer | None:
    """A verdict for each of its pages."""
    if call.command not in LOCKS + UNLOCKS:
        return None
    host.write_statuses(call, verdict)
    return Answer(Status.SUCCESS, 3000)
