"""A Hyper-V guest as a test plays it: raw bytes, packed here and nowhere in src/.

`HostRig` is a host before it: memory that notes each discard, a clock, a ring with as much room as
the test likes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from tests.support.clock import FakeClock

from ballonet.balloon.facts import ActualChanged, Fact
from ballonet.errors import GuestMemoryError
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.host_state import HostState
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.memory.regions import Region, RegionTable
from ballonet.memory.runs import DiscardResult, Ranges

VERSION_REQUEST, VERSION_RESPONSE = 1, 2
CAPABILITIES_REPORT, CAPABILITIES_RESPONSE = 3, 4
STATUS_REPORT = 5
BALLOON_REQUEST, BALLOON_RESPONSE = 6, 7
UNBALLOON_REQUEST, UNBALLOON_RESPONSE = 8, 9
HOT_ADD_REQUEST, HOT_ADD_RESPONSE = 10, 11
INFO = 12
V0_3, V1_0, V2_0 = 3, 0x10000, 0x20000
BALLOON, HOT_ADD = 1, 2
ALIGN_2_MIB = 1 << 2

Pairs = Sequence[tuple[int, int]]

PAGE = 4096
GIB_PAGES = 1 << 18
AT_ONCE = HypervHostSettings(post_init_wait_ns=0)


def message(kind: int, body: bytes = b"", trans_id: int = 77) -> bytes:
    """A header and what follows it."""
    return struct.pack("<HHI", kind, 8 + len(body), trans_id) + body


def words(pairs: Pairs) -> bytes:
    """Ranges, each as first page and number of pages."""
    return b"".join(struct.pack("<Q", first | pages << 40) for first, pages in pairs)


def version_request(version: int, *, last: bool = False) -> bytes:
    return message(VERSION_REQUEST, struct.pack("<II", version, last))


def capabilities_report(bits: int = BALLOON) -> bytes:
    return message(CAPABILITIES_REPORT, struct.pack("<QQQ", bits, 0, 2**64 - 1))


def status_report(available: int, committed: int) -> bytes:
    return message(STATUS_REPORT, struct.pack("<4Q2I", available, committed, 0, 0, 0, 0))


def balloon_response(pairs: Pairs, *, more: bool = False) -> bytes:
    head = struct.pack("<II", 0, len(pairs) << 1 | more)
    return message(BALLOON_RESPONSE, head + words(pairs))


def unballoon_response() -> bytes:
    return message(UNBALLOON_RESPONSE)


def hot_add_response(pages: int, result: int) -> bytes:
    return message(HOT_ADD_RESPONSE, struct.pack("<II", pages, result))


class NotedMemory:
    """Memory that notes which pages were dropped, and drops nothing."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self.table = RegionTable(regions)
        self.dropped: set[int] = set()

    def view(self, gpa: int, length: int) -> memoryview:
        raise GuestMemoryError(gpa, length)

    def discard(self, ranges: Ranges) -> DiscardResult:
        gpa = self.table.regions[ranges.region].gpa
        for offset, length in zip(ranges.offsets.tolist(), ranges.lengths.tolist(), strict=True):
            first = (gpa + offset) // PAGE
            self.dropped |= set(range(first, first + length // PAGE))
        return DiscardResult(calls=1, discarded_bytes=ranges.total_bytes)


class HostRig:
    """A host, and everything around it."""

    def __init__(
        self,
        settings: HypervHostSettings = AT_ONCE,
        *,
        pages: int = 4 * GIB_PAGES,
        regions: Sequence[Region] | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.room = 1 << 30
        self.sent: list[bytes] = []
        self.memory = NotedMemory(regions or [Region(0, pages * PAGE, 1 << 40, 0)])
        self.host = HypervHost(self.clock, settings, self._send)
        self.facts: list[Fact] = []
        self.host.given.observers.add(self.facts.append)

    def open(self, bits: int = BALLOON, version: int = V2_0) -> HostRig:
        """A guest comes, and both come to terms."""
        self.host.attach(self.memory)
        self.guest_says(version_request(version))
        self.guest_says(capabilities_report(bits))
        self.sent.clear()
        return self

    def state(self) -> HostState:
        """Where the conversation is."""
        return self.host.state

    def guest_says(self, *raw: bytes) -> None:
        for one in raw:
            self.host.received(one)

    def take(self) -> list[tuple[int, bytes]]:
        """Type and body of what the host sent since the last time."""
        sent, self.sent = self.sent, []
        assert all(struct.unpack_from("<H", one, 2)[0] == len(one) for one in sent)
        return [(struct.unpack_from("<H", one)[0], one[8:]) for one in sent]

    def requested(self) -> int:
        """Pages that the host's one message asks for."""
        ((kind, body),) = self.take()
        assert kind == BALLOON_REQUEST
        pages, zero = struct.unpack("<II", body)
        assert zero == 0
        return int(pages)

    def returned(self) -> list[tuple[int, int, bool]]:
        """First page, pages and `more` of each range that the host gave back."""
        found = []
        for kind, body in self.take():
            assert kind == UNBALLOON_REQUEST
            more, count, word = struct.unpack("<IIQ", body)
            assert count == 1
            found.append((word & (1 << 40) - 1, word >> 40, bool(more)))
        return found

    def give(self, pairs: Pairs, target_pages: int | None = None) -> None:
        """Have the guest asked for pages, and let it give these."""
        total = sum(pages for _, pages in pairs)
        self.host.set_target(total if target_pages is None else target_pages)
        self.take()
        self.guest_says(balloon_response(pairs))

    def flush(self) -> set[int]:
        """Let everything that waits be dropped; all pages dropped so far."""
        self.clock.advance(5)
        for _ in range(10_000):
            if not self.host.expired():
                return self.memory.dropped
        raise AssertionError("the host does not come to rest")

    def told(self) -> list[int]:
        """What observers heard of the balloon's size."""
        return [fact.actual_pages for fact in self.facts if isinstance(fact, ActualChanged)]

    def counted(self, name: str) -> int:
        value = getattr(self.host.counters, name)
        assert isinstance(value, int)
        return value

    def _send(self, raw: bytes) -> bool:
        if len(self.sent) >= self.room:
            return False
        self.sent.append(raw)
        return True


def pages_of(pairs: Pairs) -> set[int]:
    """Every page of some ranges."""
    return {int(page) for first, pages in pairs for page in np.arange(first, first + pages)}
