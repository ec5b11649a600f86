"""What the device may ask for, worked out anew from the chains it was given.

Shares no code with the device: page numbers are read with `struct`, ranges are sets of pages.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from ballonet.device.effects import Discard, PagesHinted
from ballonet.memory.mapping import GuestMemory
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain

PAGE = 4096


@dataclass
class Oracle:
    """Knows which pages the guest has given away, and checks every discard against them."""

    memory: GuestMemory
    balloon: set[int] = field(default_factory=set)  #: by MUST_TELL_HOST still the device's
    given: set[int] = field(default_factory=set)  #: by the chain being served

    def see(self, role: QueueRole | None, chain: Chain, *, told: bool) -> None:
        """The device has popped a chain."""
        self.given = set()
        if role in (QueueRole.INFLATE, QueueRole.DEFLATE):
            named = self._named(chain)
            if role is QueueRole.INFLATE:
                self.given = named
                self.balloon |= named if told else set()
            else:
                self.balloon -= named
        elif role in (QueueRole.REPORTING, QueueRole.HINT):
            for gpa, length in chain.writable:
                if length < 1 << 24:
                    first, end = -(-gpa // PAGE), (gpa + length) // PAGE
                    self.given |= set(range(first, end))

    def check_discard(self, effect: Discard, *, inhibited: bool, may_report: bool) -> None:
        """Every page of it was given, and whole host pages go."""
        assert not inhibited, "discarded while inhibited"
        assert may_report, "a report was discarded against the guest's poison"
        region = self.memory.table.regions[effect.ranges.region]
        for offset, length in zip(
            effect.ranges.offsets.tolist(), effect.ranges.lengths.tolist(), strict=True
        ):
            assert 0 <= offset < offset + length <= region.size, "outside its region"
            assert (offset + region.file_offset) % region.page_bytes == 0, "half a host page"
            assert length % region.page_bytes == 0, "half a host page"
            first = (region.gpa + offset) // PAGE
            pages = set(range(first, first + length // PAGE))
            assert pages <= self.given | self.balloon, f"pages {pages} were not given"
            assert pages & self.given, "nothing of this was given now"

    def check_hint(self, event: PagesHinted) -> None:
        """Every page hinted on was named by the chain."""
        for first, count in zip(
            event.runs.first_pfns.tolist(), event.runs.pages.tolist(), strict=True
        ):
            assert set(range(first, first + count)) <= self.given, "hinted on more than was named"

    def _named(self, chain: Chain) -> set[int]:
        try:
            if sum(length for _, length in chain.readable) > 1 << 20:
                return set()
            raw = b"".join(bytes(self.memory.view(gpa, n)) for gpa, n in chain.readable)
        except Exception:
            return set()
        return set(struct.unpack(f"<{len(raw) // 4}I", raw[: len(raw) // 4 * 4]))
