"""Checks of what a hostile or confused guest can do to a Hyper-V host: nothing, but to itself."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Level, Suite, expect
from ballonet.conform.hyperv.host_rig import HostRig
from ballonet.conform.hyperv.wire import (
    BALLOON_RESPONSE,
    HEADER_BYTES,
    RANGES_MAX,
    UNBALLOON_RESPONSE,
    balloon_response,
    capabilities_report,
    hot_add_response,
    message,
    status_report,
    version_request,
    word_of,
)

__all__ = ["SUITE"]

SUITE: Suite[HostRig] = Suite()

_FAR_PFN: Final = (1 << 40) - 1
_COUNT_MAX: Final = (1 << 24) - 1
_FLOOD: Final = 2000


@SUITE.check("Y-P1", Level.PITFALL, "511 ranges, one more than a message has room for, harm nobody")
def too_many_ranges(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        pfns = session.memory.pages(2 * (RANGES_MAX + 1))
        given, others = pfns[::2], pfns[1::2]
        session.asked(len(given))
        session.say(balloon_response([(pfn, 1) for pfn in given]))
        session.must_keep(others, "between those of 511 ranges")
        return session.works()


@SUITE.check("Y-P2", Level.PITFALL, "pages named twice, or by ranges that overlap, count once")
def overlapping(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        pfns = session.memory.pages(200)
        first = pfns[50]
        session.asked(100)
        session.say(balloon_response([(first, 60), (first + 20, 60), (first, 1), (first, 60)]))
        expect("the balloon", session.host.actual_pages, 80)
        session.say(balloon_response([(first + 70, 30)], more=True))
        expect("the balloon after another", session.host.actual_pages, 100)
        session.must_keep(pfns[:50] + pfns[150:], "beside them")
        return "181 pages named are 80; 30 more, of which 10 were given, make 100"


@SUITE.check("Y-P3", Level.PITFALL, "ranges beyond memory are not taken for memory")
def beyond_memory(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        end = session.end_pfn
        pfns = session.memory.pages(16)
        session.asked(100)
        ranges = [(end, 10), (_FAR_PFN, _COUNT_MAX), (1 << 39, 5), (0, 0)]
        session.say(balloon_response(ranges, more=True))
        expect("the balloon", session.host.actual_pages, 0)
        session.say(balloon_response([(pfns[0], 4)]))
        expect("the balloon with 4 that are memory", session.host.actual_pages, 4)
        session.must_keep(pfns[4:], "that no range named")
        return f"{len(ranges)} ranges count for nothing; " + session.works()


@SUITE.check("Y-P4", Level.PITFALL, "a range across the end of memory gives what lies in it")
def across_the_end(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        end = session.end_pfn
        for pfn in (end - 3, end - 2, end - 1):
            session.memory.write_page(pfn)
        session.asked(10)
        session.say(balloon_response([(end - 2, 8)], more=True))
        expect("the balloon", session.host.actual_pages, 2)
        session.must_keep([end - 3], "before the range")
        return "2 of 8 pages"


@SUITE.check("Y-P5", Level.PITFALL, "short messages are ignored, of whatever kind and length")
def short_messages(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        pfns = session.memory.pages(4)
        session.asked(4)
        whole = [
            *(version_request(3), capabilities_report(1), status_report(1, 1)),
            *(balloon_response([(pfns[0], 4)]), hot_add_response(1, 1)),
            message(UNBALLOON_RESPONSE, b""),
        ]
        cuts = [raw[:length] for raw in whole for length in range(len(raw))]
        cuts += [
            message(BALLOON_RESPONSE, bytes(length), size=HEADER_BYTES + length)
            for length in range(8)
        ]
        for raw in cuts:
            session.say(raw)
        session.must_keep(pfns, "by messages that were cut")
        expect("the balloon", session.host.actual_pages, 0)
        return f"{len(cuts)} of them; " + session.works()


@SUITE.check(
    "Y-P6", Level.PITFALL, "a message that says it is longer, or has more ranges, is ignored"
)
def lying_messages(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        pfns = session.memory.pages(4)
        session.asked(4)
        for count in (2, RANGES_MAX, (1 << 31) - 1):
            session.say(balloon_response([(pfns[0], 4)], count=count))
        body = bytes(4) + (1 << 1).to_bytes(4, "little") + word_of(pfns[0], 4)
        for size in (0, 7, 23, 25, 4096, 0xFFFF):
            session.say(message(BALLOON_RESPONSE, body, size=size))
        session.must_keep(pfns, "by messages that lie")
        expect("the balloon", session.host.actual_pages, 0)
        return "of 3 wrong counts and 6 wrong sizes none; " + session.works()


@SUITE.check("Y-P7", Level.PITFALL, "an answer that nobody waits for gives no page")
def unasked(rig: HostRig) -> str:
    with rig.session() as session:
        pfns = session.memory.pages(64)
        answer = balloon_response([(pfns[0], 64)])
        session.say(answer)
        session.shake_hands()
        session.say(answer)
        session.say(message(UNBALLOON_RESPONSE, b""))
        session.say(hot_add_response(64, 1))
        session.must_keep(pfns, "that nobody asked for")
        expect("the balloon", session.host.actual_pages, 0)
        expect("pages asked for afterwards", session.asked(10), 10)
        session.say(message(UNBALLOON_RESPONSE, b""))
        session.say(hot_add_response(64, 1))
        session.give(pfns[:10])
        expect("the balloon after the right answer", session.host.actual_pages, 10)
        return "before the handshake, while idle, and other answers than the awaited one"


@SUITE.check("Y-P8", Level.PITFALL, "pages that were given back are not given by a late answer")
def late_answer(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        pfns = session.memory.pages(32)
        session.asked(32)
        session.give(pfns)
        expect("pages given back", session.take_back(0), pfns)
        session.give(pfns)
        session.must_keep(pfns, "by an answer that came too late", salt=1)
        return "32 pages, given, had back, and named again unasked: kept"


@SUITE.check("Y-P9", Level.PITFALL, "types that there are not are ignored")
def unknown_types(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        for kind in (0, 15, 255, 0xFFFF):
            for body in (b"", bytes(16), b"\xff" * 64):
                said = session.say(message(kind, body))
                expect(f"answers to type {kind}", len(said), 0)
        for kind in (2, 4, 6, 8, 10, 12, 13):
            session.say(message(kind, b"\xff" * 24))
        expect("pages asked for afterwards", session.asked(10), 10)
        return "types 0, 15, 255 and 65535, and the host's own"


@SUITE.check("Y-P10", Level.PITFALL, "more than was asked for is taken, and can be had back")
def too_much(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        pfns = session.memory.pages(100)
        session.asked(10)
        session.give(pfns)
        expect("the balloon", session.host.actual_pages, 100)
        expect("pages given back", sorted(session.take_back(0)), pfns)
        session.must_keep(pfns, "given back", salt=1)
        return "100 for 10, and all of them back"


@SUITE.check("Y-P11", Level.PITFALL, "pages beyond memory come back in their turn, and end")
def ghosts(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        (pfn,) = session.memory.pages(1)
        session.asked(20)
        session.say(balloon_response([(session.end_pfn, 19), (pfn, 1)]))
        back = session.take_back(0)
        if pfn not in back:
            expect("pages given back", back, [pfn])
        session.must_keep([pfn], "given back among others", salt=1)
        return f"{len(back)} pages come back, of which one is memory"


@SUITE.check("Y-P12", Level.PITFALL, "a flood of answers that never end costs nobody else a byte")
def flood(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        pfns = session.memory.pages(64)
        session.asked(100)
        far = [(_FAR_PFN - i * (1 << 25), _COUNT_MAX) for i in range(RANGES_MAX)]
        answers = [balloon_response(far, more=True), balloon_response([(0, 0)] * 3, more=True)]
        for i in range(_FLOOD):
            session.host.received(answers[i % 2])
        session.must_keep(pfns, "in a flood")
        return f"{_FLOOD} messages with {_FLOOD // 2 * len(far)} ranges; " + session.works()
