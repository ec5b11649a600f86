"""Checks of how a driver of Hyper-V's Dynamic Memory bears a host that is wrong or hostile.

Whatever the host says, the guest goes on to work; and when a right host comes after it, not one
page is missing.  Linux believes its host: what would end it is not tried on it.
"""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Failed, Level, NotApplicable, Suite, expect
from ballonet.conform.hyperv.guest_session import (
    GuestRig,
    GuestSession,
    ask,
    balloon_request,
    check_accounts,
    give_back,
    recover,
    say,
)
from ballonet.conform.hyperv.host_session import runs_of
from ballonet.conform.hyperv.scripted_host import ScriptedHost
from ballonet.conform.hyperv.wire import (
    BALLOON_RESPONSE,
    CAPABILITIES_RESPONSE,
    HOT_ADD_REQUEST,
    HOT_ADD_RESPONSE,
    INFO,
    RANGES_MAX,
    STATUS_REPORT,
    UNBALLOON_REQUEST,
    VERSION_REQUEST,
    VERSION_RESPONSE,
    Packet,
    Range,
    message,
    unballoon_request,
    word_of,
)

__all__ = ["SUITE"]

SUITE: Suite[GuestRig] = Suite()

_U32_MAX: Final = (1 << 32) - 1
_FAR_PFN: Final = (1 << 40) - 1
_COUNT_MAX: Final = (1 << 24) - 1
_SILENT_S: Final = 600.0
_FLOOD: Final = 1000


@SUITE.check("YG-M1", Level.PITFALL, "asked for 2^32 - 1 pages it gives what it can, and lives")
def absurd_request(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        ask(session, _U32_MAX)
        given = len(check_accounts(session))
        if not session.is_alive():
            raise Failed("a program in the guest does not do its work any more")
        return f"{given} pages; {recover(session, before)}"


@SUITE.check("YG-M2", Level.PITFALL, "pages that it never gave are not taken back")
def never_given(rig: GuestRig) -> str:
    with rig.session() as session:
        before = _of_lies(session)
        ask(session, 1000)
        given = check_accounts(session)
        others = sorted(set(range(session.memory_pages)) - given)
        for raw in _messages(runs_of(others)):
            say(session, raw)
            session.rest(0.1)
        return f"{len(others)} pages of its own named; {recover(session, before)}"


@SUITE.check("YG-M3", Level.PITFALL, "ranges beyond memory are left alone")
def beyond_memory(rig: GuestRig) -> str:
    with rig.session() as session:
        before = _of_lies(session)
        end = session.memory_pages
        ranges = [(end, 1), (_FAR_PFN, _COUNT_MAX), (1 << 39, 0), (end - 1, _COUNT_MAX)]
        _say(session, unballoon_request(ranges))
        return f"{len(ranges)} of them; {recover(session, before)}"


@SUITE.check("YG-M4", Level.PITFALL, "pages that come back twice are taken back once")
def twice_back(rig: GuestRig) -> str:
    with rig.session() as session:
        before = _of_lies(session)
        ask(session, 1000)
        ranges = runs_of(sorted(check_accounts(session)))[:100]
        for _ in range(3):
            _say(session, unballoon_request(ranges + ranges))
        return f"{len(ranges)} ranges six times; {recover(session, before)}"


@SUITE.check("YG-M5", Level.PITFALL, "ranges that overlap are taken back once")
def overlapping(rig: GuestRig) -> str:
    with rig.session() as session:
        before = _of_lies(session)
        ask(session, 1024)
        given = sorted(check_accounts(session))
        first, pages = runs_of(given)[0]
        ranges = [(first, pages // 2), (first + pages // 4, pages // 2), (first, pages)]
        _say(session, unballoon_request(ranges))
        expect("the balloon", session.actual_pages, len(given) - pages)
        return f"three ranges are {pages} pages; {recover(session, before)}"


@SUITE.check(
    "YG-M6", Level.PITFALL, "511 ranges, one more than a message has room for, harm nobody"
)
def too_many_ranges(rig: GuestRig) -> str:
    with rig.session() as session:
        before = _of_lies(session)
        ask(session, RANGES_MAX + 1)
        given = sorted(check_accounts(session))
        _say(session, unballoon_request([(pfn, 1) for pfn in given]))
        return f"{len(given)} ranges; {recover(session, before)}"


@SUITE.check("YG-M7", Level.PITFALL, "short messages are ignored, of whatever kind and length")
def short_messages(rig: GuestRig) -> str:
    with rig.session() as session:
        before = _of_lies(session)
        ask(session, 600)
        given = sorted(check_accounts(session))
        whole = [
            *(balloon_request(100), unballoon_request(runs_of(given)[:5])),
            message(HOT_ADD_REQUEST, word_of(0, 1) * 2)[:16],
            *(message(kind, bytes(8)) for kind in (VERSION_RESPONSE, CAPABILITIES_RESPONSE)),
            message(INFO, bytes(24)),
        ]
        cuts = [raw[:length] for raw in whole for length in range(len(raw))]
        start = len(session.host.record)
        for raw in cuts:
            _say(session, raw)
        answers = [one.kind for one in session.host.heard(start=start) if one.kind != STATUS_REPORT]
        expect("answers", answers, [])
        expect("the balloon", session.actual_pages, len(given))
        return f"{len(cuts)} of them; {recover(session, before)}"


@SUITE.check(
    "YG-M8", Level.PITFALL, "a message that says it is longer, or has more ranges, is ignored"
)
def lying_messages(rig: GuestRig) -> str:
    with rig.session() as session:
        before = _of_lies(session)
        ask(session, 100)
        given = sorted(check_accounts(session))
        ranges = runs_of(given)[:1]
        lies = [unballoon_request(ranges, count=n) for n in (2, 511, _U32_MAX)]
        body = bytes(4) + (1).to_bytes(4, "little") + word_of(*ranges[0])
        lies += [message(UNBALLOON_REQUEST, body, size=n) for n in (0, 7, 23, 4096, 0xFFFF)]
        for raw in lies:
            _say(session, raw)
        expect("the balloon", session.actual_pages, len(given))
        return f"{len(lies)} of them; {recover(session, before)}"


@SUITE.check("YG-M9", Level.PITFALL, "answers of the handshake that come too late change nothing")
def late_answers(rig: GuestRig) -> str:
    with rig.session() as session:
        before = _of_lies(session)
        heard = len(session.host.heard(VERSION_REQUEST))
        for kind in (VERSION_RESPONSE, CAPABILITIES_RESPONSE):
            for bits in (0, 1, (1 << 64) - 1):
                _say(session, message(kind, bits.to_bytes(8, "little")))
        expect("requests", len(session.host.heard(VERSION_REQUEST)), heard)
        return f"6 of them; {recover(session, before)}"


@SUITE.check("YG-M10", Level.PITFALL, "a host that asks before the handshake is over gets nothing")
def too_early(rig: GuestRig) -> str:
    def ask_first(host: ScriptedHost, packet: Packet) -> bool:
        if packet.kind == VERSION_REQUEST:
            host.say(balloon_request(100))
            host.say(unballoon_request([(5000, 100)]))
        return False

    with rig.session(ask_first) as session:
        _of_lies(session)
        session.rest(2)
        expect("answers", len(session.host.heard(BALLOON_RESPONSE)), 0)
        expect("the balloon", session.actual_pages, 0)
        ask(session, 100)
        return "no page, and it serves on after the handshake"


@SUITE.check(
    "YG-M11", Level.PITFALL, "a request while another is under way does not break accounts"
)
def request_in_request(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        start = len(session.host.record)
        for pages in (2000, 500, 700):
            say(session, balloon_request(pages))
        if not session.until(lambda: any(not one.has_more for one in _answers(session, start))):
            raise Failed("none is answered")
        session.rest(3)
        given = len(check_accounts(session))
        if given > 3200:
            raise Failed(f"{given} pages for 3200")
        last = sum(not one.has_more for one in _answers(session, start))
        return f"three requests: {given} pages in {last} answers; {recover(session, before)}"


@SUITE.check("YG-M12", Level.PITFALL, "types that there are not are ignored")
def unknown_types(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        start = len(session.host.record)
        for kind in (0, 15, 99, 0xFFFF):
            _say(session, message(kind, b"\xff" * 24))
        others = [one.kind for one in session.host.heard(start=start) if one.kind != STATUS_REPORT]
        expect("answers", others, [])
        return f"0, 15, 99 and 65535; {recover(session, before)}"


@SUITE.check(
    "YG-M13", Level.PITFALL, "memory that cannot be is not added, wherever it is said to lie"
)
def absurd_memory(rig: GuestRig) -> str:
    with rig.session() as session:
        before = _of_lies(session)
        offers: list[Range] = [(_FAR_PFN, _COUNT_MAX), (0, 0), (0, _COUNT_MAX), (1 << 30, 1)]
        start = len(session.host.record)
        for added in offers:
            for region in (b"", word_of(*added), word_of(_FAR_PFN, _COUNT_MAX)):
                _say(session, message(HOT_ADD_REQUEST, word_of(*added) + region))
        taken = [one.word(8) for one in session.host.heard(HOT_ADD_RESPONSE, start=start)]
        expect("pages added", sum(taken), 0)
        return (
            f"{3 * len(offers)} offers, {len(taken)} answers, no page; {recover(session, before)}"
        )


@SUITE.check("YG-M14", Level.PITFALL, "a flood of requests is borne")
def flood(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        for _ in range(_FLOOD // 10):
            for _ in range(10):
                say(session, balloon_request(1))
            session.rest(0.01)
        session.rest(3)
        given = len(check_accounts(session))
        if given > _FLOOD:
            raise Failed(f"{given} pages for {_FLOOD}")
        return f"{_FLOOD} requests for a page: {given} given; {recover(session, before)}"


@SUITE.check(
    "YG-M15", Level.PITFALL, "a ring that stays full: the guest lives, and keeps its pages"
)
def ring_full_for_ever(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        session.set_room(is_full=True)
        say(session, balloon_request(2000))
        session.rest(_SILENT_S)
        if not session.is_alive():
            raise Failed("a program in the guest does not do its work")
        expect("the balloon", session.actual_pages, 0)
        session.leave()
        missing = before - session.free_pages
        expect("pages that are missing", missing, 0)
        return f"{_SILENT_S:.0f} s; then the driver leaves, and no page is missing"


@SUITE.check("YG-M16", Level.PITFALL, "a host that never speaks again is not waited for")
def silence(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        ask(session, 1000)
        session.tell(lambda host: host.play(lambda _host, _packet: True))
        session.rest(_SILENT_S if session.is_timed else 5)
        if not session.is_alive():
            raise Failed("a program in the guest does not do its work")
        give_back(session, check_accounts(session))
        return f"its balloon stays as it is; {recover(session, before)}"


def _of_lies(session: GuestSession) -> int:
    """Free pages before a host lies. Raises: NotApplicable, if the guest would believe it."""
    if session.is_trusting:
        raise NotApplicable("this guest's kernel believes its host, and would not survive it")
    return session.free_pages


def _say(session: GuestSession, raw: bytes) -> None:
    """Say something, and let the guest do what it does."""
    say(session, raw)
    session.rest(0.1)


def _messages(ranges: list[Range]) -> list[bytes]:
    return [
        unballoon_request(ranges[i : i + RANGES_MAX]) for i in range(0, len(ranges), RANGES_MAX)
    ]


def _answers(session: GuestSession, start: int) -> list[Packet]:
    return session.host.heard(BALLOON_RESPONSE, start=start)
