"""What the device may ask for, worked out anew from the chains it was given.

Shares no code with the device: page numbers are read with `struct`, ranges are sets of pages.  A
page is the device's from the inflate that names it until that is answered or, with MUST_TELL_HOST,
until a deflate is answered that could mean it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from ballonet.balloon.facts import PagesHinted
from ballonet.errors import GuestMemoryError
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.runs import Ranges
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain

PAGE = 4096

Place = tuple[int, int]  # queue and head of a chain


@dataclass
class Oracle:
    """Knows which pages the guest has given away, and checks every discard against them."""

    memory: GuestMemory
    balloon: set[int] = field(default_factory=set)  #: by MUST_TELL_HOST still the device's
    given: dict[Place, set[int]] = field(default_factory=dict)  #: by chains not answered yet
    wanted: dict[Place, set[int] | None] = field(default_factory=dict)  #: back; None: any page
    current: set[int] = field(default_factory=set)  #: given by the chain served just now

    def popped(self, queue: int, role: QueueRole | None, chain: Chain) -> None:
        """The device has taken a chain."""
        place, self.current = (queue, chain.head), set()
        if role is QueueRole.INFLATE:
            self.current = self._given_by(chain)
        elif role is QueueRole.DEFLATE:
            self.wanted[place] = self._wanted_by(chain)
        elif role in (QueueRole.REPORTING, QueueRole.HINT):
            self.current = self._written_by(chain)
        self.given[place] = self.given.get(place, set()) | self.current

    def un_popped(self, queue: int, head: int) -> None:
        """The device has put a chain back: what it gives stays given, it was not answered."""
        self.wanted.pop((queue, head), None)

    def answered(self, queue: int, role: QueueRole | None, head: int, *, told: bool) -> None:
        """The driver may go on."""
        place = queue, head
        given = self.given.pop(place, set())
        if role is QueueRole.INFLATE and told:
            self.balloon |= given
        if place in self.wanted:
            wanted = self.wanted.pop(place)
            self.balloon = set() if wanted is None else self.balloon - wanted

    def forget(self) -> None:
        """Every ring has stopped: the driver may do with its pages what it likes."""
        self.balloon.clear()
        self.given.clear()
        self.wanted.clear()

    def check_discard(self, ranges: Ranges, *, inhibited: bool, waited: bool) -> None:
        """Every page of it is the device's, and whole host pages go.

        `waited`: it is done between messages, and not for the chain served just now.
        """
        assert not inhibited, "discarded while inhibited"
        region = self.memory.table.regions[ranges.region]
        owned = self.balloon | (set().union(*self.given.values()) if waited else self.current)
        for offset, length in zip(ranges.offsets.tolist(), ranges.lengths.tolist(), strict=True):
            assert 0 <= offset < offset + length <= region.size, "outside its region"
            assert (offset + region.file_offset) % region.page_bytes == 0, "half a host page"
            assert length % region.page_bytes == 0, "half a host page"
            first = (region.gpa + offset) // PAGE
            pages = set(range(first, first + length // PAGE))
            assert pages <= owned, f"pages {sorted(pages - owned)} were not given"
            assert waited or pages & self.current, "nothing of this was given now"

    def check_hint(self, event: PagesHinted) -> None:
        """Every page hinted on was named by the chain."""
        for first, count in zip(
            event.runs.first_pfns.tolist(), event.runs.pages.tolist(), strict=True
        ):
            assert set(range(first, first + count)) <= self.current, "hinted on more than was named"

    def _given_by(self, chain: Chain) -> set[int]:
        """Pages that every reading of an inflate names: as 32-bit and as 64-bit numbers."""
        raw = self._read(chain)
        if raw is None:
            return set()
        words = _words(raw)
        if len(raw) % 8 == 0 and not any(words[1::2]):
            return set(words[::2])
        return set(words)

    def _wanted_by(self, chain: Chain) -> set[int] | None:
        """Pages that any reading of a deflate names; None if that may be all of them."""
        raw = self._read(chain)
        if not raw or len(raw) % 4 or chain.writable:
            return None
        return set(_words(raw))

    def _written_by(self, chain: Chain) -> set[int]:
        """Whole pages of the memory that a report or hint names."""
        found: set[int] = set()
        for gpa, length in chain.writable:
            for region in self.memory.table.regions:
                first = -(-max(gpa, region.gpa) // PAGE)
                end = min(gpa + length, region.gpa + region.size) // PAGE
                found |= set(range(first, end))
        return found

    def _read(self, chain: Chain) -> bytes | None:
        """What a chain says; None if it cannot be read in full."""
        try:
            return b"".join(bytes(self.memory.view(gpa, n)) for gpa, n in chain.readable)
        except GuestMemoryError:
            return None


def _words(raw: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(raw) // 4}I", raw[: len(raw) // 4 * 4])
