"""Checks of the inflate and the deflate queue."""

from __future__ import annotations

from time import monotonic
from typing import Final

import numpy as np

from ballonet.conform.checks import Failed, Level, NotApplicable, Suite
from ballonet.conform.device.marked_memory import DATA_AT
from ballonet.conform.device.rig import EVERYTHING, Rig
from ballonet.conform.device.session import DeviceSession
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QueueRole

__all__ = ["SUITE"]

SUITE: Suite[Rig] = Suite()

_BIG_PAGE: Final = 2 << 20
_PARTS: Final = _BIG_PAGE // BALLOON_PAGE_BYTES
#: As much as a device of ours reads; Linux sends 1 KiB.
_HUGE_MESSAGE: Final = 1 << 20
_HUGE_S: Final = 60.0
_READS: Final = 20


@SUITE.check("D-O1", Level.SHOULD, "memory of inflated pages goes back to the host, and no other")
def inflated_pages_are_dropped(rig: Rig) -> str:
    with rig.session() as session:
        pfns = session.memory.pages(64)
        given, others = pfns[::2], pfns[1::2]
        session.inflate(given)
        session.until(lambda: len(session.memory.emptied(given)) == len(given))
        if len(session.memory.kept(others)) != len(others):
            raise Failed("a page that was not given has lost its contents")
        dropped = len(session.memory.emptied(given))
        if dropped != len(given):
            raise Failed(f"{dropped} of {len(given)} pages are dropped")
        return f"{dropped} of {len(given)} given pages dropped, {len(others)} between them kept"


@SUITE.check(
    "D-O2", Level.MUST, "without MUST_TELL_HOST a page is left alone once its inflate is used"
)
def used_pages_are_left_alone(rig: Rig) -> str:
    with rig.session(EVERYTHING & ~Feature.MUST_TELL_HOST) as session:
        pfns = session.memory.pages(256)
        session.inflate(pfns)
        for pfn in pfns:
            session.memory.write_page(pfn, salt=1)
        session.rest()
        lost = len(pfns) - len(session.memory.kept(pfns, salt=1))
        if lost:
            raise Failed(f"{lost} of {len(pfns)} pages written after the answer have changed")
        return f"{len(pfns)} pages written right after the answer, all kept"


@SUITE.check(
    "D-O2b", Level.MUST, "with MUST_TELL_HOST a page is left alone once its deflate is used"
)
def deflated_pages_are_left_alone(rig: Rig) -> str:
    with rig.session() as session:
        session.need(Feature.MUST_TELL_HOST)
        pfns = session.memory.pages(256)
        session.inflate(pfns)
        session.deflate(pfns)
        for pfn in pfns:
            session.memory.write_page(pfn, salt=1)
        session.rest()
        lost = len(pfns) - len(session.memory.kept(pfns, salt=1))
        if lost:
            raise Failed(f"{lost} of {len(pfns)} pages written after the answer have changed")
        return f"{len(pfns)} pages written right after the answer, all kept"


@SUITE.check("D-O3", Level.MUST, "inflates and deflates are answered, with a used length of 0")
def answers_have_no_length(rig: Rig) -> str:
    with rig.session() as session:
        pfns = session.memory.pages(4)
        lengths = [session.inflate(pfns).length, session.deflate(pfns).length]
        if any(lengths):
            raise Failed(f"used lengths are {lengths}")
        return "both are 0"


@SUITE.check("D-O4", Level.MUST, "a deflate is taken at any time, of pages never given too")
def deflate_at_any_time(rig: Rig) -> str:
    with rig.session() as session:
        pfns = session.memory.pages(8)
        session.deflate(pfns)
        session.rest()
        if len(session.memory.kept(pfns)) != len(pfns):
            raise Failed("a deflated page has changed")
        return "answered, and the pages are kept"


@SUITE.check("P-1", Level.PITFALL, "big host pages: giving, taking and giving parts loses no byte")
def parts_of_big_pages(rig: Rig) -> str:
    with rig.session(big_pages=True) as session:
        pfns = session.memory.pages(_PARTS, align=_BIG_PAGE)
        first, second = pfns[: _PARTS // 2], pfns[_PARTS // 2 :]
        session.inflate(first)
        session.deflate(first)
        for pfn in first:
            session.memory.write_page(pfn, salt=1)
        session.inflate(second)
        session.rest()
        if len(session.memory.kept(first, salt=1)) != len(first):
            raise Failed("a part that was taken back went with the rest of its page")
        return "the part that was taken back is kept"


@SUITE.check("P-2", Level.PITFALL, "page numbers beyond memory are answered and harm nothing")
def numbers_beyond_memory(rig: Rig) -> str:
    with rig.session() as session:
        pfns = session.memory.pages(2)
        session.inflate([0x8000_0000, 0xFFFF_FFFF, 0x7FFF_FFFF, pfns[0]])
        if pfns[1] not in session.memory.kept(pfns):
            raise Failed("a page that was not given has changed")
        return session.works()


@SUITE.check("P-3", Level.PITFALL, "the last page of memory can be given, the one behind it not")
def end_of_memory(rig: Rig) -> str:
    with rig.session() as session:
        last = session.memory.file.size // BALLOON_PAGE_BYTES - 1
        session.memory.write_page(last)
        session.inflate([last, last + 1])
        return f"page {last:#x} and the one behind it are answered; " + session.works()


@SUITE.check("P-4", Level.PITFALL, "a page named twice or a hundred times is one page")
def duplicates(rig: Rig) -> str:
    with rig.session() as session:
        pfns = session.memory.pages(3)
        session.inflate([pfns[1]] * 100)
        if pfns[0] not in session.memory.kept(pfns) or pfns[2] not in session.memory.kept(pfns):
            raise Failed("a neighbour has changed")
        return "its neighbours are kept; " + session.works()


@SUITE.check("P-10", Level.SHOULD, "a big host page given in two messages goes back to the host")
def big_page_in_two_messages(rig: Rig) -> str:
    with rig.session(big_pages=True) as session:
        pfns = session.memory.pages(_PARTS, align=_BIG_PAGE)
        session.inflate(pfns[: _PARTS // 2])
        session.inflate(pfns[_PARTS // 2 :])
        session.until(lambda: len(session.memory.emptied(pfns[:1])) == 1)
        dropped = len(session.memory.emptied(pfns))
        if dropped != _PARTS:
            raise Failed(
                f"{dropped} of {_PARTS} parts are dropped: those of the first message are"
                " forgotten, and Linux never sends more than 256 in one"
            )
        return "all of it is dropped"


@SUITE.check("P-27", Level.PITFALL, "a huge message does not make the host's side wait")
def huge_message(rig: Rig) -> str:
    with rig.session() as session:
        place = session.memory.file.size - _HUGE_MESSAGE
        pfns = np.arange(DATA_AT, place, BALLOON_PAGE_BYTES) // BALLOON_PAGE_BYTES
        session.memory.write(
            place, np.resize(pfns[::2], _HUGE_MESSAGE // 4).astype("<u4").tobytes()
        )
        sample = [int(pfn) for pfn in pfns[:32:2]]
        for pfn in sample:
            session.memory.write_page(pfn)
        before_s = max(_config_read_s(session) for _ in range(_READS))
        head = session.post(QueueRole.INFLATE, [(place, _HUGE_MESSAGE)])
        slowest_s = max(_config_read_s(session) for _ in range(_READS))
        # A busy machine is slow before, too.
        if slowest_s > max(1, 10 * before_s):
            raise Failed(f"a read of the configuration took {slowest_s:.2f} s meanwhile")
        if not session.until(lambda: session.is_used(QueueRole.INFLATE, head), _HUGE_S):
            raise Failed(f"{_HUGE_MESSAGE >> 10} KiB are not answered in {_HUGE_S:.0f} s")
        if not session.until(lambda: len(session.memory.emptied(sample)) == len(sample)):
            raise NotApplicable("it is answered without being read")
        return (
            f"{_HUGE_MESSAGE // 4:,} scattered page numbers in one message are obeyed; the slowest"
            f" of {_READS} configuration reads meanwhile took {1000 * slowest_s:.0f} ms"
        )


def _config_read_s(session: DeviceSession) -> float:
    """Seconds of a look at the configuration."""
    begun_s = monotonic()
    session.transport.read_config(0, 4)
    return monotonic() - begun_s


@SUITE.check("P-31", Level.PITFALL, "pages of 8 bytes a number, as Windows sends, keep page 0 safe")
def windows_numbers(rig: Rig) -> str:
    with rig.session() as session:
        pfns = session.memory.pages(8)
        raw = b"".join(pfn.to_bytes(8, "little") for pfn in pfns)
        session.memory.write_page(0)
        session.send(QueueRole.INFLATE, [session.memory.message(raw)])
        session.rest()
        if not session.memory.kept([0]):
            raise Failed("page 0, which was not given, is dropped")
        return "page 0 is kept"
