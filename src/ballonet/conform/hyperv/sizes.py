"""Checks of how a Hyper-V host makes a guest smaller and bigger."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Failed, Level, Suite, expect
from ballonet.conform.hyperv.host_rig import HostRig
from ballonet.conform.hyperv.host_session import BALLOON, HOT_ADD
from ballonet.conform.hyperv.wire import (
    BALLOON_REQUEST,
    HOT_ADD_REQUEST,
    UNBALLOON_REQUEST,
    UNBALLOON_RESPONSE,
    balloon_response,
    hot_add_response,
    message,
    pages_of,
    ranges_of,
)

__all__ = ["SUITE"]

SUITE: Suite[HostRig] = Suite()

_BIG_BYTES: Final = 4 << 30
_BALLOON_MAX: Final = 585_728  #: the most that Windows was seen to answer
_UNBALLOON_MAX: Final = 524_288  #: 2 GiB
_MIB_PAGES: Final = 256
#: 128 MiB, as Linux wants it: 7 is the logarithm of it in MiB.
_ALIGNMENT_PAGES: Final = 128 * _MIB_PAGES
_BOOT_BYTES: Final = _ALIGNMENT_PAGES << 12
_CAN_ADD: Final = BALLOON | HOT_ADD | 7 << 2


@SUITE.check("Y-B1", Level.MUST, "asks for as many pages as are missing to the target")
def asks(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        expect("pages asked for", session.asked(1000), 1000)
        return "1000 pages, in 16 bytes"


@SUITE.check("Y-B2", Level.SHOULD, "memory of given pages goes back to the host, and no other")
def given_pages_are_dropped(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        pfns = session.memory.pages(128)
        given, others = pfns[::2], pfns[1::2]
        session.asked(len(given))
        session.give(given)
        session.must_drop(given)
        session.must_keep(others, "between those that were given")
        expect("the balloon", session.host.actual_pages, len(given))
        return f"{len(given)} given pages dropped, {len(others)} between them kept"


@SUITE.check("Y-B3", Level.MUST, "an answer with more to come is not the end of it")
def more_to_come(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        pfns = session.memory.pages(30)
        session.asked(30)
        expect("said to the first", len(session.give(pfns[:10], more=True)), 0)
        expect("said to the second", len(session.give(pfns[10:20], more=True)), 0)
        expect("said to the last", len(session.give(pfns[20:])), 0)
        session.must_drop(pfns)
        expect("the balloon", session.host.actual_pages, 30)
        return "three answers to one request"


@SUITE.check("Y-B4", Level.MUST, "asks again for what a guest did not give yet")
def asks_again(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        session.asked(30)
        said = session.give(session.memory.pages(10))
        expect("what it says", [one.kind for one in said], [BALLOON_REQUEST])
        expect("pages asked for", said[0].word(8), 20)
        return "10 of 30 given; then for 20"


@SUITE.check("Y-B5", Level.MUST, "a guest that gives nothing is at its least, and left alone")
def nothing_given(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        session.asked(30)
        session.give(session.memory.pages(10))
        expect("said to an empty answer", len(session.give([])), 0)
        session.host.rest(600)
        expect("said in 10 minutes", len(session.hear()), 0)
        expect("the balloon", session.host.actual_pages, 10)
        expect("pages asked for, the same target being set again", session.asked(30), 20)
        return "no word for 10 minutes; asked again when the target was set again"


@SUITE.check("Y-B6", Level.MUST, "a guest that cannot balloon is not asked to")
def cannot_balloon(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands(capabilities=0)
        expect("what it says", [one.kind for one in session.target(100)], [])
        return "no request"


@SUITE.check("Y-B7", Level.SHOULD, "asks for 585,728 pages at once at most, and gives 2 GiB back")
def big_steps(rig: HostRig) -> str:
    with rig.session(memory_bytes=_BIG_BYTES) as session:
        session.shake_hands()
        first = session.asked(700_000)
        if first > _BALLOON_MAX:
            raise Failed(f"{first} pages at once")
        said = session.say(balloon_response([(1 << 18, first)]))
        expect("then", [(one.kind, one.word(8)) for one in said], [(6, 700_000 - first)])
        session.say(balloon_response([((1 << 18) + first, 700_000 - first)]))
        expect("the balloon", session.host.actual_pages, 700_000)
        steps = [one for one in session.target(0) if one.kind == UNBALLOON_REQUEST]
        sizes = [sum(pages for _, pages in one.ranges) for one in steps]
        if max(sizes) > _UNBALLOON_MAX or sum(sizes) != 700_000:
            raise Failed(f"{sizes} pages are given back")
        return f"asked for {first} and {700_000 - first}; {' and '.join(map(str, sizes))} back"


@SUITE.check(
    "Y-U1", Level.MUST, "what is given back is what was given, and is left alone from then"
)
def gives_back(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        pfns = session.memory.pages(300)
        given = pfns[::3]
        session.asked(len(given))
        session.give(given)
        back = session.take_back(40)
        expect("pages given back", len(back), len(given) - 40)
        if set(back) - set(given) or len(set(back)) != len(back):
            raise Failed("pages are given back that were not given, or twice")
        session.must_keep(back, "written as soon as they were given back", salt=1)
        expect("the balloon", session.host.actual_pages, 40)
        session.must_drop(sorted(set(given) - set(back)))
        return f"{len(back)} of {len(given)} written right after the message, all kept"


@SUITE.check("Y-U2", Level.MUST, "goes on after the last message of it was answered, not before")
def waits_for_answer(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        given = session.memory.pages(60)[::2]
        session.asked(len(given))
        session.give(given)
        said = session.target(0)
        expect("messages", {one.kind for one in said}, {UNBALLOON_REQUEST})
        expect("which have more to come", [one.has_more for one in said][-2:], [True, False])
        expect("what it says to a new target", len(session.target(10)), 0)
        kinds = [one.kind for one in session.say(message(UNBALLOON_RESPONSE, b""))]
        expect("and when it was answered", kinds, [BALLOON_REQUEST])
        return f"{len(said)} messages, more to come in all but the last; the next target waits"


@SUITE.check("Y-T1", Level.MUST, "a target that changes meanwhile is looked at when that has ended")
def changes_meanwhile(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        given = session.memory.pages(100)
        session.asked(len(given))
        for target in (500, 20, 60):
            expect("what it says meanwhile", len(session.target(target)), 0)
        said = session.give(given)
        expect("what it says then", {one.kind for one in said}, {UNBALLOON_REQUEST})
        back = sum(len(pages_of(one.ranges)) for one in said)
        expect("pages given back", back, len(given) - 60)
        return "100 are given; then 40 of them back for the last target"


@SUITE.check("Y-T2", Level.SHOULD, "each exchange has a number of its own")
def numbers(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        session.target(3)
        said = []
        for pfn in session.memory.pages(3):
            said += session.give([pfn])
        requests = [one for one in session.host.sent() if one.kind == BALLOON_REQUEST]
        seen = [one.trans_id for one in requests]
        expect("numbers", seen, list(range(seen[0], seen[0] + 3)))
        return f"{', '.join(map(str, seen))}"


@SUITE.check("Y-R1", Level.MUST, "waits for room in the ring, and says nothing twice or never")
def full_ring(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        session.host.set_room(is_full=True)
        session.host.set_target(50)
        session.host.rest(10)
        expect("said through a full ring", len(session.hear()), 0)
        session.host.set_room(is_full=False)
        session.host.rest(1)
        kinds = [one.kind for one in session.hear()]
        expect("said when there is room", kinds, [BALLOON_REQUEST])
        given = session.memory.pages(100)[::2]
        session.give(given)
        session.host.set_room(is_full=True)
        session.host.set_target(0)
        session.host.rest(10)
        session.host.set_room(is_full=False)
        session.host.rest(1)
        back = pages_of(one for packet in session.hear() for one in packet.ranges)
        expect("pages given back", sorted(back), given)
        return "10 s without room twice: one request, and each page back once"


@SUITE.check("Y-A1", Level.MUST, "adds memory when all else was given back, in the guest's units")
def adds_memory(rig: HostRig) -> str:
    extra = 3 * _ALIGNMENT_PAGES
    with rig.session(memory_bytes=_BOOT_BYTES, extra_bytes=extra << 12) as session:
        session.shake_hands(_CAN_ADD)
        expect("the balloon", session.host.actual_pages, extra)
        said = session.target(_ALIGNMENT_PAGES)
        expect("what it says", [one.kind for one in said], [HOT_ADD_REQUEST])
        said[0].check_size(24)
        added, region = ranges_of(said[0].raw[8:])
        expect("range and region", added, region)
        boot = session.end_pfn - extra
        expect("what it adds", added[1], 2 * _ALIGNMENT_PAGES)
        if added[0] % _ALIGNMENT_PAGES or added[0] < boot:
            raise Failed(f"page {added[0]:#x} is no place for it")
        session.say(hot_add_response(added[1], 1))
        expect("the balloon afterwards", session.host.actual_pages, extra - added[1])
        return f"{added[1]} pages at {added[0]:#x}, in 24 bytes"


@SUITE.check("Y-A2", Level.MUST, "memory that the guest refused is not offered again")
def refused_memory(rig: HostRig) -> str:
    extra = 2 * _ALIGNMENT_PAGES
    seen = []
    for pages, result in ((0, 0), (0, 1), (_ALIGNMENT_PAGES, 1)):
        with rig.session(memory_bytes=_BOOT_BYTES, extra_bytes=extra << 12) as session:
            session.shake_hands(_CAN_ADD)
            expect("offers", len(session.target(0)), 1)
            seen.append(len(session.say(hot_add_response(pages, result))))
            expect("the balloon", session.host.actual_pages, extra - pages)
            session.target(1)
            seen.append(len(session.target(0)))
    expect("further messages", seen, [0] * 6)
    return "after result 0, after none of it, and after half of it"


@SUITE.check("Y-A3", Level.MUST, "a guest that cannot add memory is offered none")
def cannot_add(rig: HostRig) -> str:
    with rig.session(memory_bytes=_BOOT_BYTES, extra_bytes=_ALIGNMENT_PAGES << 12) as session:
        session.shake_hands(BALLOON)
        expect("what it says", [one.kind for one in session.target(0)], [])
        return "no request"


@SUITE.check("Y-A4", Level.MUST, "memory that was added goes and comes like all other")
def added_memory_balloons(rig: HostRig) -> str:
    extra = _ALIGNMENT_PAGES
    with rig.session(memory_bytes=_BOOT_BYTES, extra_bytes=extra << 12) as session:
        session.shake_hands(_CAN_ADD)
        expect("offers", len(session.target(0)), 1)
        session.say(hot_add_response(extra, 1))
        pfns = list(range(session.end_pfn - 64, session.end_pfn))
        for pfn in pfns:
            session.memory.write_page(pfn)
        session.asked(len(pfns))
        session.give(pfns)
        session.must_drop(pfns)
        expect("pages given back", session.take_back(0), pfns)
        session.must_keep(pfns, "given back", salt=1)
        return f"{len(pfns)} pages dropped, and kept when they came back"
