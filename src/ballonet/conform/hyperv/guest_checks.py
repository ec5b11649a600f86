"""Checks of what a driver of Hyper-V's Dynamic Memory does under a host that is right."""

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
from ballonet.conform.hyperv.scripted_host import Script, ScriptedHost
from ballonet.conform.hyperv.wire import (
    BALLOON_RESPONSE,
    CAPABILITIES_REPORT,
    CAPABILITIES_RESPONSE,
    HOT_ADD_REQUEST,
    HOT_ADD_RESPONSE,
    INFO,
    RANGES_MAX,
    STATUS_REPORT,
    UNBALLOON_RESPONSE,
    VERSION_REQUEST,
    VERSION_RESPONSE,
    VERSIONS,
    Packet,
    message,
    pages_of,
    unballoon_request,
    word_of,
)

__all__ = ["SUITE"]

SUITE: Suite[GuestRig] = Suite()

_BLOCK_PAGES: Final = 512
_MIB_PAGES: Final = 256
_U64_MAX: Final = (1 << 64) - 1
_SAMPLE: Final = 64
_FLOOR_STEPS: Final = 50
#: Kept whatever the host asks for: MiB of memory below which; MiB; and a share of the memory.
_FLOORS: Final = ((128, 8, 2), (512, 40, 4), (2048, 104, 8), (8192, 232, 16), (1 << 40, 488, 32))


@SUITE.check("YG-V1", Level.MUST, "asks for 2.0, then 1.0, then 0.3 as its last, and gives up")
def versions(rig: GuestRig) -> str:
    with rig.session(_refusing(VERSIONS)) as session:
        if not session.until(lambda: len(session.host.heard(VERSION_REQUEST)) >= len(VERSIONS)):
            raise Failed(f"it asks {len(session.host.heard(VERSION_REQUEST))} times")
        session.rest(3)
        asked = session.host.heard()
        for one in asked:
            one.check_size(16)
        seen = [(one.kind, one.word(8), one.word(12) & 1) for one in asked]
        wanted = [(1, VERSIONS[0], 0), (1, VERSIONS[1], 0), (1, VERSIONS[2], 1)]
        expect("what it says", seen, wanted)
        return "2.0, 1.0, and 0.3 with the mark of the last; then no word"


@SUITE.check("YG-V2", Level.MUST, "goes on with the first version that is accepted")
def accepted_version(rig: GuestRig) -> str:
    with rig.session(_refusing(VERSIONS[:1])) as session:
        if not session.until(lambda: bool(session.host.heard(CAPABILITIES_REPORT))):
            raise Failed("it does not say what it can do")
        kinds = [one.kind for one in session.host.heard()][:3]
        expect("what it says", kinds, [VERSION_REQUEST, VERSION_REQUEST, CAPABILITIES_REPORT])
        return "2.0 is refused, 1.0 accepted; then it says what it can do"


@SUITE.check("YG-V3", Level.MUST, "waits 5 s for an answer, and then leaves the host alone")
def silent_host(rig: GuestRig) -> str:
    with rig.session(lambda _host, _packet: True) as session:
        _need_time(session)
        session.rest(4.9)
        session.tell(lambda host: host.play(None))
        session.rest(60)
        expect("messages in 65 s", len(session.host.heard()), 1)
        say(session, _accept(VERSION_RESPONSE))
        session.rest(60)
        expect("messages after a late answer", len(session.host.heard()), 1)
        return "one request; an answer after 65 s is not heard"


@SUITE.check("YG-C1", Level.MUST, "says what it can do, with its alignment, in 32 bytes")
def capabilities(rig: GuestRig) -> str:
    with rig.session() as session:
        (report,) = session.host.heard(CAPABILITIES_REPORT)
        report.check_size(32)
        bits = report.long(8)
        if not bits & 1:
            raise Failed(f"{bits:#x}: it cannot balloon")
        if bits & ~0b1111111:
            raise Failed(f"{bits:#x}: bits that mean nothing")
        expect(
            "least pages and last page number", (report.long(16), report.long(24)), (0, _U64_MAX)
        )
        return (
            f"{bits:#x}: balloon, {'' if bits & 2 else 'no '}hot add, {1 << (bits >> 2 & 15)} MiB"
        )


@SUITE.check("YG-C2", Level.MUST, "gives up if what it can do is not accepted")
def capabilities_refused(rig: GuestRig) -> str:
    def refuse(host: ScriptedHost, packet: Packet) -> bool:
        if packet.kind != CAPABILITIES_REPORT:
            return False
        return host.say(message(CAPABILITIES_RESPONSE, bytes(8), packet.trans_id))

    with rig.session(refuse) as session:
        if not session.until(lambda: bool(session.host.heard(CAPABILITIES_REPORT))):
            raise Failed("it does not say what it can do")
        heard = len(session.host.heard())
        say(session, balloon_request(100))
        session.rest(3)
        expect("messages afterwards", len(session.host.heard()) - heard, 0)
        return "no word afterwards, not even when it is asked for pages"


@SUITE.check("YG-S1", Level.MUST, "reports its state once a second, in 48 bytes")
def reports(rig: GuestRig) -> str:
    with rig.session() as session:
        some = _reports(session, 3)
        for one in some:
            one.check_size(48)
        if not session.is_timed:
            return f"{len(some)} reports; how often is not measured here"
        before = len(session.host.heard(STATUS_REPORT))
        session.rest(60)
        count = len(session.host.heard(STATUS_REPORT)) - before
        if not 59 <= count <= 61:
            raise Failed(f"{count} reports in 60 s")
        return f"{count} reports in 60 s"


@SUITE.check("YG-S2", Level.MUST, "reports what it has and needs, with the balloon as needed")
def reported_figures(rig: GuestRig) -> str:
    with rig.session() as session:
        before = _reports(session, 1)[-1]
        ask(session, 3000)
        session.rest(1)
        after = _reports(session, 1)[-1]
        fell, rose = before.long(8) - after.long(8), after.long(16) - before.long(16)
        if not 2000 <= fell <= 4000:
            raise Failed(f"available falls by {fell} for a balloon of 3000 pages")
        if rose <= 0:
            raise Failed(f"committed rises by {rose} for a balloon of 3000 pages")
        give_back(session, check_accounts(session))
        return f"for 3000 pages available falls by {fell}, committed rises by {rose}"


@SUITE.check("YG-S3", Level.SHOULD, "sends no report in its first 45 s, as Linux does not")
def first_reports(rig: GuestRig) -> str:
    with rig.session(unreported=45) as session:
        _need_time(session)
        session.rest(44)
        expect("reports in 44 s", len(session.host.heard(STATUS_REPORT)), 0)
        session.rest(3)
        count = len(session.host.heard(STATUS_REPORT))
        if not count:
            raise Failed("none comes after 47 s")
        return f"none in 44 s, {count} in the next 3"


@SUITE.check("YG-N1", Level.MUST, "numbers its messages upwards")
def numbers(rig: GuestRig) -> str:
    with rig.session() as session:
        ask(session, 1500)
        give_back(session, check_accounts(session))
        seen = [one.trans_id for one in session.host.heard()]
        expect("its numbers", seen, sorted(set(seen)))
        return f"{len(seen)} messages, {seen[0]} to {seen[-1]}"


@SUITE.check("YG-B1", Level.MUST, "gives what it is asked for, each page once, all of it memory")
def gives(rig: GuestRig) -> str:
    with rig.session() as session:
        wanted = [1, 1000, 2500]
        sizes = [sum(len(pages_of(p.ranges)) for p in ask(session, n)) for n in wanted]
        expect("pages given", sizes, wanted)
        given = check_accounts(session)
        give_back(session, given)
        return f"{len(given)} pages for three requests"


@SUITE.check(
    "YG-B2", Level.MUST, "510 ranges a message at most, the last alone has no more to come"
)
def splits(rig: GuestRig) -> str:
    with rig.session() as session:
        answers = ask(session, RANGES_MAX + 1)
        sizes = [len(one.ranges) for one in answers]
        if max(sizes) > RANGES_MAX:
            raise Failed(f"a message of {max(sizes)} ranges")
        more = [one.has_more for one in answers]
        expect("more to come", more, [True] * (len(more) - 1) + [False])
        give_back(session, check_accounts(session))
        return f"{RANGES_MAX + 1} pages in messages of {' and '.join(map(str, sizes))} ranges"


@SUITE.check("YG-B3", Level.SHOULD, "gives blocks of 2 MiB first, and then single pages")
def blocks_first(rig: GuestRig) -> str:
    with rig.session() as session:
        ranges = [one for packet in ask(session, 4 * _BLOCK_PAGES + 100) for one in packet.ranges]
        sizes = [pages for _, pages in ranges]
        expect("the first ranges", sizes[:4], [_BLOCK_PAGES] * 4)
        expect("pages in all", sum(sizes), 4 * _BLOCK_PAGES + 100)
        give_back(session, check_accounts(session))
        return f"4 blocks, then 100 pages in {len(sizes) - 4} ranges"


@SUITE.check("YG-F1", Level.MUST, "keeps its floor, whatever it is asked for")
def floor(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        ask(session, session.memory_pages)
        given = len(check_accounts(session))
        left, least = session.available_pages, _floor(session.total_pages)
        if left < least * 9 // 10:
            raise Failed(f"{left} pages are available, of {least} that it keeps")
        said = recover(session, before)
        return f"{given} of {session.memory_pages} pages given, {left} left of {least}; {said}"


@SUITE.check("YG-F2", Level.MUST, "a guest that has no more to give says so, with an empty answer")
def at_the_floor(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        # The floor is a part of the memory that is left, and so sinks a little each time.
        for count in range(1, _FLOOR_STEPS + 1):
            answers = ask(session, session.memory_pages)
            if not any(one.ranges for one in answers):
                expect("answers", [one.has_more for one in answers], [False])
                return f"request {count} is answered without a range; {recover(session, before)}"
        raise Failed(f"it gives more each of {_FLOOR_STEPS} times")


@SUITE.check("YG-O1", Level.MUST, "does not touch a page that it gave")
def leaves_pages_alone(rig: GuestRig) -> str:
    with rig.session() as session:
        ask(session, 3000)
        given = sorted(check_accounts(session))
        sample = given[:: max(1, len(given) // _SAMPLE)]
        session.tell(lambda host: host.scribble(sample))
        if not session.is_alive():
            raise Failed("a program in the guest does not do its work")
        session.rest(2)
        touched = session.tell(lambda host: [p for p in sample if not host.is_scribbled(p)])
        expect("touched", touched, [])
        give_back(session, given)
        return f"{len(sample)} of {len(given)} pages that the host wrote on are as it left them"


@SUITE.check(
    "YG-U1", Level.MUST, "answers the last of the messages that give pages back, not others"
)
def answers_the_last(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        ask(session, 1500)
        given = sorted(check_accounts(session))
        start = len(session.host.record)
        first = runs_of(given[:700])[:RANGES_MAX]
        say(session, unballoon_request(first, more=True))
        session.rest(1)
        expect(
            "answers to more to come", len(session.host.heard(UNBALLOON_RESPONSE, start=start)), 0
        )
        freed = len(given) - len(check_accounts(session))
        give_back(session, check_accounts(session))
        expect("answers", len(session.host.heard(UNBALLOON_RESPONSE, start=start)), 1)
        missing = before - session.free_pages
        if abs(missing) > session.free_doubt_pages:
            raise Failed(f"{missing} pages are missing in the guest")
        return f"{freed} pages back without an answer, the others with one; none is missing"


@SUITE.check("YG-U2", Level.MUST, "a message that gives nothing back is answered, too")
def nothing_back(rig: GuestRig) -> str:
    with rig.session() as session:
        give_back(session, [])
        return "answered"


@SUITE.check("YG-A1", Level.MUST, "answers an offer of memory with what it took, and a result")
def hot_add(rig: GuestRig) -> str:
    with rig.session() as session:
        start = len(session.host.record)
        # Memory that the guest has already: nobody can add that.
        word = word_of(0, 128 * _MIB_PAGES)
        say(session, message(HOT_ADD_REQUEST, word + word))
        if not session.until(lambda: bool(session.host.heard(HOT_ADD_RESPONSE, start=start))):
            raise Failed("it does not answer")
        (answer,) = session.host.heard(HOT_ADD_RESPONSE, start=start)
        answer.check_size(16)
        expect("pages and result", (answer.word(8), answer.word(12)), (0, 1))
        return "of memory that it has already: no page, and not to be asked again"


@SUITE.check(
    "YG-I1", Level.MUST, "hears how many pages it may have one day, and says nothing to it"
)
def info(rig: GuestRig) -> str:
    with rig.session() as session:
        start = len(session.host.record)
        body = b"".join(n.to_bytes(4, "little") for n in (0, 16, 0, 8)) + (1 << 30).to_bytes(
            8, "little"
        )
        say(session, message(INFO, body))
        session.rest(1)
        others = [one.kind for one in session.host.heard(start=start) if one.kind != STATUS_REPORT]
        expect("answers", others, [])
        ask(session, 100)
        give_back(session, check_accounts(session))
        return "no answer, and it serves on"


@SUITE.check("YG-H1", Level.MUST, "a guest that may be hibernated gives nothing, and says nothing")
def hibernates(rig: GuestRig) -> str:
    with rig.session(hibernates=True) as session:
        start = len(session.host.record)
        say(session, balloon_request(100))
        say(session, unballoon_request([(5000, 1)]))
        session.rest(5)
        others = [one.kind for one in session.host.heard(start=start) if one.kind != STATUS_REPORT]
        expect("answers", others, [])
        expect("the balloon", session.actual_pages, 0)
        return "no answer to either request"


@SUITE.check("YG-R1", Level.MUST, "a ring that is full is tried again, and no page is lost by it")
def full_ring(rig: GuestRig) -> str:
    with rig.session() as session:
        before = session.free_pages
        session.set_room(is_full=True)
        say(session, balloon_request(2500))
        session.rest(1)
        expect("the balloon while nothing was said", session.actual_pages, 0)
        start = len(session.host.record)
        session.set_room(is_full=False)
        if not session.until(lambda: session.actual_pages == 2500):
            raise Failed(f"{session.actual_pages} of 2500 pages are given when there is room")
        waited = session.host.heard(BALLOON_RESPONSE, start=start)[0].trans_id
        said = recover(session, before)
        return f"given when there was room, as message {waited}; {said}"


@SUITE.check("YG-X1", Level.MUST, "a driver that closed the channel says nothing any more")
def closes(rig: GuestRig) -> str:
    with rig.session() as session:
        ask(session, 500)
        session.leave()
        heard = len(session.host.heard())
        say(session, balloon_request(500))
        session.rest(10)
        expect("messages", len(session.host.heard()) - heard, 0)
        return "no word in 10 s, though it was asked"


def _refusing(refused: tuple[int, ...]) -> Script:
    """A host that does not speak some versions."""

    def script(host: ScriptedHost, packet: Packet) -> bool:
        if packet.kind != VERSION_REQUEST or packet.word(8) not in refused:
            return False
        return host.say(message(VERSION_RESPONSE, bytes(8), packet.trans_id))

    return script


def _accept(kind: int) -> bytes:
    return message(kind, (1).to_bytes(8, "little"))


def _need_time(session: GuestSession) -> None:
    """Raises: NotApplicable."""
    if not session.is_timed:
        raise NotApplicable("its seconds are not measured here")


def _reports(session: GuestSession, count: int) -> list[Packet]:
    """So many new status reports. Raises: Failed."""
    start = len(session.host.record)
    if not session.until(lambda: len(session.host.heard(STATUS_REPORT, start=start)) >= count):
        raise Failed("no status report comes")
    return session.host.heard(STATUS_REPORT, start=start)


def _floor(pages: int) -> int:
    """What a guest with so much memory keeps."""
    for below_mib, mib, share in _FLOORS:
        if pages < below_mib * _MIB_PAGES:
            return mib * _MIB_PAGES + pages // share
    raise AssertionError("no guest has so much")
