"""Checks of how a Hyper-V host comes to terms with a guest, and what it hears from it."""

from __future__ import annotations

from typing import Final

from ballonet.conform.checks import Failed, Level, NotApplicable, Suite, expect
from ballonet.conform.hyperv.host_rig import HostRig
from ballonet.conform.hyperv.host_session import BALLOON, HOT_ADD
from ballonet.conform.hyperv.wire import (
    BALLOON_REQUEST,
    INFO,
    VERSIONS,
    balloon_response,
    capabilities_report,
    status_report,
    version_request,
)

__all__ = ["SUITE"]

SUITE: Suite[HostRig] = Suite()

_V1_0: Final = VERSIONS[1]
_POST_INIT_WAIT_S: Final = 50


@SUITE.check("Y-V1", Level.MUST, "accepts version 2.0, 1.0 or 0.3, whichever is asked for")
def accepts_versions(rig: HostRig) -> str:
    for version in VERSIONS:
        with rig.session() as session:
            if not session.offer(version):
                raise Failed(f"{version:#x} is refused")
    return "each of the three"


@SUITE.check("Y-V2", Level.MUST, "refuses another version, and waits for one that it knows")
def refuses_versions(rig: HostRig) -> str:
    with rig.session() as session:
        strange = [0, 2, 0x20001, 0x30000, 0xFFFF_FFFF]
        for version in strange:
            if session.offer(version):
                raise Failed(f"{version:#x} is accepted")
        if not session.offer(_V1_0):
            raise Failed("1.0 is refused afterwards")
        return f"{', '.join(f'{one:#x}' for one in strange)} are refused, and then 1.0 accepted"


@SUITE.check("Y-V3", Level.SHOULD, "the answers of the handshake carry the guest's numbers")
def echoes_numbers(rig: HostRig) -> str:
    with rig.session() as session:
        (version,) = session.say(version_request(VERSIONS[0], trans_id=4711))
        capabilities = session.say(capabilities_report(BALLOON, trans_id=4712))[0]
        expect("numbers", [version.trans_id, capabilities.trans_id], [4711, 4712])
        return "4711 and 4712, as they were asked"


@SUITE.check("Y-C1", Level.MUST, "accepts whatever a guest can do, and says it wants no status")
def accepts_capabilities(rig: HostRig) -> str:
    for bits in (0, BALLOON, BALLOON | HOT_ADD | 7 << 2, (1 << 64) - 1):
        with rig.session() as session:
            session.offer(VERSIONS[0])
            answer = session.report(bits)[0].long(8)
            if not answer & 4:
                raise Failed(f"the answer is {answer:#x}: reports are not suppressed")
    with rig.session(wants_status=True) as session:
        session.offer(VERSIONS[0])
        wanted = session.report(BALLOON)[0].long(8)
        if wanted & 4:
            raise Failed(f"the answer is {wanted:#x}, though reports are wanted")
    return f"accepted with {answer:#x}, and {wanted:#x} where reports are wanted"


@SUITE.check("Y-C2", Level.MUST, "tells guests since 1.0 how many pages they will ever have")
def tells_most_pages(rig: HostRig) -> str:
    told = []
    for version in VERSIONS:
        with rig.session() as session:
            session.offer(version)
            infos = [one for one in session.report(BALLOON) if one.kind == INFO]
            told.append(len(infos))
            for one in infos:
                one.check_size(32)
                expect("its sizes and type", [one.word(n) for n in (12, 16, 20)], [16, 0, 8])
                expect("pages", one.long(24), session.end_pfn)
    expect("infos to 2.0, 1.0 and 0.3", told, [1, 1, 0])
    return "32 bytes with all of its pages, and none to 0.3"


@SUITE.check("Y-I1", Level.SHOULD, "asks for nothing in the first 50 s, when Windows may crash")
def waits_after_handshake(rig: HostRig) -> str:
    with rig.session() as session:
        session.host.set_target(100)
        session.offer(VERSIONS[0])
        session.report(BALLOON)
        session.host.rest(_POST_INIT_WAIT_S - 1)
        early = [one.kind for one in session.hear()]
        expect("what it says in 49 s", early, [])
        session.host.rest(2)
        expect("what it says then", [one.kind for one in session.hear()], [BALLOON_REQUEST])
        return "silent for 49 s, and then it asks"


@SUITE.check("Y-I2", Level.MUST, "a handshake that is over is not begun again in the channel")
def no_second_handshake(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        said = session.say(version_request(VERSIONS[2])) + session.say(capabilities_report(0))
        expect("answers", [one.kind for one in said], [])
        expect("pages asked for afterwards", session.asked(10), 10)
        return "no answer, and the first terms hold"


@SUITE.check("Y-I3", Level.MUST, "capabilities before a version are ignored")
def capabilities_first(rig: HostRig) -> str:
    with rig.session() as session:
        expect("answers", len(session.say(capabilities_report(BALLOON))), 0)
        session.shake_hands()
        return "no answer; then the handshake goes on as it must"


@SUITE.check("Y-X1", Level.MUST, "a channel that closes and opens has a guest with all its memory")
def begins_anew(rig: HostRig) -> str:
    with rig.session() as session:
        session.shake_hands()
        pfns = session.memory.pages(64)
        session.asked(len(pfns))
        session.give(pfns)
        session.must_drop(pfns)
        session.reopen()
        expect("the balloon", session.host.actual_pages, 0)
        for pfn in pfns:
            session.memory.write_page(pfn, salt=1)
        session.must_keep(pfns, "that a new driver has", salt=1)
        if session.say(balloon_response([(pfns[0], 64)])):
            raise Failed("it answers before the handshake")
        session.must_keep(pfns, "given before the handshake", salt=1)
        return f"{len(pfns)} pages are the guest's again; " + session.works()


@SUITE.check("Y-S1", Level.SHOULD, "keeps the newest status report, pages as bytes")
def keeps_status(rig: HostRig) -> str:
    with rig.session(wants_status=True) as session:
        session.shake_hands()
        if session.host.status() is not None:
            raise Failed("it knows something before it was told")
        session.say(status_report(1, 2))
        session.say(status_report(1000, 300))
        expect("available and committed", session.host.status(), (4_096_000, 1_228_800))
        return "1000 and 300 pages are 4096000 and 1228800 bytes"


@SUITE.check("Y-S2", Level.MUST, "bears status reports that it did not want, at any time")
def bears_status(rig: HostRig) -> str:
    with rig.session() as session:
        for _ in range(100):
            session.say(status_report((1 << 64) - 1, (1 << 64) - 1))
        session.shake_hands()
        expect("pages asked for", session.asked(10), 10)
        for _ in range(100):
            if session.say(status_report(5, 5)):
                raise Failed("it answers a status report")
        pfns = session.memory.pages(10)
        session.give(pfns)
        session.must_drop(pfns)
        if session.host.status() is not None:
            raise NotApplicable("it keeps reports that it said it does not want")
        return "200 of them, and a request between is answered as ever"
