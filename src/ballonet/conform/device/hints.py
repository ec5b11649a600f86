"""Checks of free page hints, around a migration or what stands for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ballonet.conform.checks import Failed, Level, NotApplicable, Suite
from ballonet.conform.device.rig import HostControl, Rig
from ballonet.conform.device.session import DeviceSession
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.features import Feature
from ballonet.virtio.hint_ids import CMD_ID_DONE, CMD_ID_STOP
from ballonet.virtio.queues import QueueRole

__all__ = ["SUITE"]

SUITE: Suite[Rig] = Suite()

_WORD: Final = 4
_POISON_AT: Final = 12


def _cmd_id(session: DeviceSession) -> int:
    return int.from_bytes(session.transport.read_config(8, _WORD), "little")


def _say(session: DeviceSession, word: int) -> None:
    session.send(QueueRole.HINT, [session.memory.message(word.to_bytes(_WORD, "little"))])


def _hint(session: DeviceSession, gpa: int, length: int) -> None:
    session.send(QueueRole.HINT, [], [(gpa, length)])


@contextmanager
def _migrating(rig: Rig) -> Iterator[tuple[DeviceSession, HostControl]]:
    """A session while a migration waits for hints."""
    if rig.control is None:
        raise NotApplicable("the host of this device cannot be asked for a migration")
    with rig.session() as session:
        session.need(Feature.FREE_PAGE_HINT)
        if Feature.PAGE_POISON in session.negotiated:
            session.transport.write_config(_POISON_AT, bytes(_WORD))
        rig.control.begin_hints()
        if not session.until(lambda: _cmd_id(session) > CMD_ID_DONE):
            raise Failed("a migration runs, and no hints are asked for")
        try:
            yield session, rig.control
        finally:
            rig.control.cancel_hints()


@SUITE.check("D-H1", Level.SHOULD, "STOP is shown while no hints are wanted")
def stop_at_first(rig: Rig) -> str:
    with rig.session() as session:
        session.need(Feature.FREE_PAGE_HINT)
        cmd_id = _cmd_id(session)
        if cmd_id not in (CMD_ID_STOP, CMD_ID_DONE):
            raise Failed(f"the id is {cmd_id:#x} before anything happened")
        return f"the id is {cmd_id}"


@SUITE.check("D-H0", Level.SHOULD, "a page that was hinted is not sent")
def hinted_page_is_skipped(rig: Rig) -> str:
    with _migrating(rig) as (session, control):
        hinted, other = session.memory.pages(1)[0], session.memory.pages(1)[0]
        _say(session, _cmd_id(session))
        _hint(session, hinted * BALLOON_PAGE_BYTES, BALLOON_PAGE_BYTES)
        _say(session, CMD_ID_STOP)
        control.end_hints()
        if control.was_skipped(other):
            raise Failed("a page that was not hinted is missing")
        if not control.was_skipped(hinted):
            raise Failed("the hinted page was sent")
        return "the hinted page was not sent, its neighbour was"


@SUITE.check("D-H2", Level.MUST, "the id of a round is never used again")
def ids_are_new(rig: Rig) -> str:
    seen: list[int] = []
    with _migrating(rig) as (session, control):
        seen.append(_cmd_id(session))
        control.cancel_hints()
        control.begin_hints()
        if not session.until(lambda: _cmd_id(session) > CMD_ID_DONE):
            raise Failed("a second migration does not ask for hints")
        seen.append(_cmd_id(session))
    if seen[0] == seen[1]:
        raise Failed(f"two rounds have the id {seen[0]:#x}")
    return f"ids {seen[0]:#x} and {seen[1]:#x}"


@SUITE.check("D-H3", Level.MUST, "pages sent under another id than the present one are ignored")
def stale_ids_are_ignored(rig: Rig) -> str:
    with _migrating(rig) as (session, control):
        (pfn,) = session.memory.pages(1)
        _say(session, _cmd_id(session) - 1)
        _hint(session, pfn * BALLOON_PAGE_BYTES, BALLOON_PAGE_BYTES)
        control.end_hints()
        if control.was_skipped(pfn):
            raise Failed("a page under a stale id was not sent")
        return "the page was sent all the same"


@SUITE.check("D-H4", Level.MUST, "the contents of hinted pages are left alone")
def hinted_pages_keep_their_contents(rig: Rig) -> str:
    with _migrating(rig) as (session, control):
        pfns = session.memory.pages(64)
        _say(session, _cmd_id(session))
        _hint(session, pfns[0] * BALLOON_PAGE_BYTES, 64 * BALLOON_PAGE_BYTES)
        _say(session, CMD_ID_STOP)
        control.end_hints()
        if len(session.memory.kept(pfns)) != 64:
            raise Failed("a hinted page has changed on the source")
        return "64 hinted pages are unchanged on the source"


@SUITE.check("D-H6", Level.MUST, "DONE is shown after a migration that was cancelled")
def done_after_cancel(rig: Rig) -> str:
    with _migrating(rig) as (session, control):
        _say(session, _cmd_id(session))
        control.cancel_hints()
        if not session.until(lambda: _cmd_id(session) == CMD_ID_DONE):
            raise Failed(f"the id is {_cmd_id(session):#x} after the end")
        return "the id is DONE"


@SUITE.check("D-H7", Level.MUST, "DONE is shown after a migration that succeeded")
def done_after_success(rig: Rig) -> str:
    with _migrating(rig) as (session, control):
        _say(session, _cmd_id(session))
        _say(session, CMD_ID_STOP)
        control.end_hints()
        if not session.until(lambda: _cmd_id(session) == CMD_ID_DONE):
            raise Failed(f"the id is {_cmd_id(session):#x} after the end")
        return "the id is DONE"


@SUITE.check("P-42", Level.PITFALL, "the id stays readable while its round runs")
def id_stays(rig: Rig) -> str:
    with _migrating(rig) as (session, _):
        cmd_id = _cmd_id(session)
        _say(session, cmd_id)
        now = _cmd_id(session)
        if now != cmd_id:
            raise Failed(
                f"{cmd_id:#x} reads as {now:#x} once the round runs: any other configuration change"
                " makes a driver end it"
            )
        return f"{cmd_id:#x} before and in the round"


@SUITE.check("P-43", Level.PITFALL, "a hint that covers part of a page does not hint the page")
def partial_pages_are_sent(rig: Rig) -> str:
    with _migrating(rig) as (session, control):
        pfns = session.memory.pages(3)
        half = BALLOON_PAGE_BYTES // 2
        _say(session, _cmd_id(session))
        _hint(session, pfns[0] * BALLOON_PAGE_BYTES + half, 2 * BALLOON_PAGE_BYTES)
        _say(session, CMD_ID_STOP)
        control.end_hints()
        lost = [i for i in (0, 2) if control.was_skipped(pfns[i])]
        if lost:
            raise Failed("a page of which half was hinted was not sent: the other half is lost")
        return "the pages at both ends were sent"


@SUITE.check("P-33", Level.PITFALL, "a driver cannot start an old round again by its id")
def rounds_do_not_restart(rig: Rig) -> str:
    with _migrating(rig) as (session, control):
        (pfn,) = session.memory.pages(1)
        cmd_id = _cmd_id(session)
        _say(session, cmd_id)
        _say(session, CMD_ID_STOP)
        _say(session, cmd_id)
        _hint(session, pfn * BALLOON_PAGE_BYTES, BALLOON_PAGE_BYTES)
        control.end_hints()
        if control.was_skipped(pfn):
            raise Failed("a page hinted after the round's end was not sent")
        return "the page was sent all the same"
