"""A Hyper-V host that keeps a record of its guest, and says what a check likes.

Our host is behind it and comes to terms with the guest, unless a script does; after that it wants
nothing, and the check asks.  So no memory is dropped here, and a page that the guest touches though
it gave it is found by what was written on it.
`audit` follows a record without knowing either end: what is the host's, by what both said.
Units: 4 KiB pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from ballonet.balloon.clock import Clock
from ballonet.conform.checks import Failed
from ballonet.conform.hyperv.wire import (
    BALLOON_REQUEST,
    BALLOON_RESPONSE,
    HEADER_BYTES,
    MESSAGE_BYTES_MAX,
    UNBALLOON_REQUEST,
    UNBALLOON_RESPONSE,
    Packet,
    pages_of,
)
from ballonet.errors import GuestMemoryError
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.units import BALLOON_PAGE_BYTES, pages_to_bytes

__all__ = ["Script", "ScriptedHost", "Spoken", "audit"]

#: What a host does about a message; False: our host does what is right.
Script = Callable[["ScriptedHost", Packet], bool]


class Spoken(NamedTuple):
    """One message, in either direction."""

    is_guests: bool
    packet: Packet


class ScriptedHost(HypervHost):
    """Follows a script while it has one."""

    def __init__(
        self, clock: Clock, settings: HypervHostSettings, send: Callable[[bytes], bool]
    ) -> None:
        super().__init__(clock, settings, self.say)
        self.record: Final[list[Spoken]] = []
        self._now_ns = clock.now_ns
        self._put = send
        self._script: Script | None = None

    def play(self, script: Script | None) -> None:
        """Follow a script from now on; None: be right."""
        self._script = script

    def received(self, message: bytes) -> None:
        """Remember a message, and do something about it."""
        packet = Packet(self._now_ns(), message)
        self.record.append(Spoken(is_guests=True, packet=packet))
        if len(message) < HEADER_BYTES:
            return
        if self._script is None or not self._script(self, packet):
            super().received(message)

    def say(self, raw: bytes) -> bool:
        """Say anything; False if the ring is full."""
        is_sent = self._put(raw)
        if is_sent:
            packet = Packet(self._now_ns(), raw)
            self.record.append(Spoken(is_guests=False, packet=packet))
        return is_sent

    def heard(self, *kinds: int, start: int = 0) -> list[Packet]:
        """The guest's messages of some types, or all, from a place in the record on."""
        spoken = [one.packet for one in self.record[start:] if one.is_guests]
        return [one for one in spoken if not kinds or one.kind in kinds]

    def scribble(self, pfns: Iterable[int]) -> None:
        """Write on pages that are the host's."""
        for pfn in pfns:
            self._view(pfn)[:] = _scribbled(pfn)

    def is_scribbled(self, pfn: int) -> bool:
        """Nobody has written on a page since."""
        return bytes(self._view(pfn)) == _scribbled(pfn)

    def _view(self, pfn: int) -> memoryview:
        memory = self.given.memory
        if memory is None:
            raise GuestMemoryError(pages_to_bytes(pfn), BALLOON_PAGE_BYTES)
        return memory.view(pages_to_bytes(pfn), BALLOON_PAGE_BYTES)


def audit(record: Iterable[Spoken], memory_pages: int) -> set[int]:
    """Every page that is the host's now.

    Raises: Failed, at the first message that no guest may send.
    """
    state = _Audit(memory_pages)
    for spoken in record:
        (state.hear if spoken.is_guests else state.say)(spoken.packet)
    return state.given


class _Audit:
    """What either end must know, after each message."""

    def __init__(self, memory_pages: int) -> None:
        self.given: set[int] = set()
        self._memory_pages = memory_pages
        self._awaits_pages = self._awaits_answer = 0
        self._trans_id: int | None = None

    def say(self, packet: Packet) -> None:
        """The host's: it may be anything."""
        if len(packet.raw) < HEADER_BYTES:
            return
        if packet.kind == BALLOON_REQUEST:
            self._awaits_pages += 1
        elif packet.kind == UNBALLOON_REQUEST and _is_whole(packet):
            # One that names no page of the balloon changes nothing.
            self.given.difference_update(_pages_below(packet, self._memory_pages))
            self._awaits_answer += not packet.has_more

    def hear(self, packet: Packet) -> None:
        """The guest's."""
        if not HEADER_BYTES <= len(packet.raw) <= MESSAGE_BYTES_MAX:
            raise Failed(f"a message of {len(packet.raw)} bytes")
        if self._trans_id is not None and packet.trans_id <= self._trans_id:
            raise Failed(f"message {packet.trans_id} comes after {self._trans_id}")
        self._trans_id = packet.trans_id
        if packet.kind == BALLOON_RESPONSE:
            self._take(packet)
        elif packet.kind == UNBALLOON_RESPONSE:
            packet.check_size(HEADER_BYTES)
            if not self._awaits_answer:
                raise Failed("an unballoon response that nobody waits for")
            self._awaits_answer -= 1

    def _take(self, packet: Packet) -> None:
        if not self._awaits_pages:
            raise Failed("a balloon response that nobody waits for")
        pages = pages_of(packet.ranges)
        if len(set(pages)) != len(pages) or set(pages) & self.given:
            raise Failed("a page is given twice")
        if any(pfn >= self._memory_pages for pfn in pages):
            raise Failed("what is given is no memory")
        self.given |= set(pages)
        # A request that came while another was under way need not be answered by itself.
        self._awaits_pages -= not packet.has_more


def _is_whole(packet: Packet) -> bool:
    """Its ranges are all there."""
    says = int.from_bytes(packet.raw[2:4], "little")
    return len(packet.raw) >= 16 and 16 + 8 * packet.word(12) <= says <= len(packet.raw)


def _pages_below(packet: Packet, end: int) -> list[int]:
    """Pages that its ranges name, of memory up to there."""
    return [
        first + i for first, pages in packet.ranges for i in range(max(0, min(pages, end - first)))
    ]


def _scribbled(pfn: int) -> bytes:
    return (pfn << 8 | 0xE5).to_bytes(8, "little") * (BALLOON_PAGE_BYTES // 8)
