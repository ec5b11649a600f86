"""Split ring, driver side; the layout stands in split.py.

Indexes are read and written as aligned 16-bit words.  The memory is zero when a ring is made.
Source: VIRTIO 1.4 2.7; 2.7.2 for the place of legacy rings.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from ballonet.errors import RingError, UsageError
from ballonet.virtio.ring.chain import GuestView, Piece
from ballonet.virtio.ring.descriptors import F_NEXT, F_WRITE
from ballonet.virtio.ring.driver import RingPlace, RingState, Used
from ballonet.virtio.ring.notify import Fence, wants_event
from ballonet.virtio.ring.split import split_area_bytes

__all__ = ["SplitDriverRing", "split_place", "split_ring_bytes"]

_DESCRIPTOR: Final = Struct("<QIHH")
_USED_ENTRY: Final = Struct("<II")
_NO_INTERRUPT, _NO_NOTIFY = 1, 1
_FLAGS, _IDX, _RING = 0, 1, 2
_USED_ALIGN: Final = 4
_U16: Final = 0xFFFF


def split_place(gpa: int, size: int, used_align: int = _USED_ALIGN) -> RingPlace:
    """Where the areas lie if the ring begins at `gpa`; legacy devices want used aligned to 4096."""
    avail = gpa + 16 * size
    used = avail + 6 + 2 * size
    return RingPlace(gpa, avail, -(-used // used_align) * used_align)


def split_ring_bytes(size: int, used_align: int = _USED_ALIGN) -> int:
    """Bytes from the start of a ring to its end."""
    return split_place(0, size, used_align).used + split_area_bytes(size)[2]


class SplitDriverRing:
    """One split virtqueue as the driver sees it; a `DriverRing`."""

    def __init__(
        self, memory: GuestView, place: RingPlace, size: int, fence: Fence, *, event_idx: bool
    ) -> None:
        self.size: Final = size
        self.place: Final = place
        desc, avail, used = split_area_bytes(size)
        self._desc = memory.view(place.desc, desc)
        self._avail = memory.view(place.avail, avail)
        self._used = memory.view(place.used, used)
        self._avail16, self._used16 = self._avail.cast("H"), self._used.cast("H")
        self._fence, self._event_idx = fence, event_idx
        self._free = list(range(size - 1, -1, -1))
        self._chains: dict[int, list[int]] = {}
        self._added = self._shown = self._seen = 0
        self._calls = True

    @property
    def free_descriptors(self) -> int:
        """Entries that belong to no chain under way."""
        return len(self._free)

    @property
    def base(self) -> int:
        """Everything the device has not used is to be read again."""
        return self._used16[_IDX]

    def add(self, readable: Sequence[Piece], writable: Sequence[Piece] = ()) -> int:
        """Make a chain; returns its head. Raises: RingError."""
        pieces = [(gpa, length, 0) for gpa, length in readable]
        pieces += [(gpa, length, F_WRITE) for gpa, length in writable]
        if not 0 < len(pieces) <= len(self._free):
            raise RingError(f"{len(pieces)} descriptors wanted, {len(self._free)} are free")
        taken = [self._free.pop() for _ in pieces]
        for i, (gpa, length, writable_flag) in enumerate(pieces):
            is_last = i == len(pieces) - 1
            following = 0 if is_last else taken[i + 1]
            flags = writable_flag | (0 if is_last else F_NEXT)
            _DESCRIPTOR.pack_into(self._desc, 16 * taken[i], gpa, length, flags, following)
        head = taken[0]
        self._chains[head] = taken
        self._avail16[_RING + self._added % self.size] = head
        self._added = (self._added + 1) & 0xFFFF
        return head

    def publish(self) -> bool:
        """Show the device what was added; True if it wants a kick."""
        self._fence()  # entries before the index
        self._avail16[_IDX] = self._added
        self._fence()  # the index before the device's wish
        shown, self._shown = self._shown, self._added
        if self._event_idx:
            avail_event = self._used16[_RING + 4 * self.size]
            return wants_event(avail_event, self._added, shown)
        return not self._used16[_FLAGS] & _NO_NOTIFY

    def collect(self) -> list[Used]:
        """Chains that came back. Raises: RingError."""
        found = []
        while self._seen != self._used16[_IDX]:
            self._fence()  # the index before the entry
            head, length = _USED_ENTRY.unpack_from(self._used, 4 + 8 * (self._seen % self.size))
            chain = self._chains.pop(head, None)
            if chain is None:
                raise RingError(f"the device returned {head}, which it did not have")
            self._free += reversed(chain)
            self._seen = (self._seen + 1) & 0xFFFF
            if self._event_idx and self._calls:
                self._avail16[_RING + self.size] = self._seen
                self._fence()  # the wish before the last look
            found.append(Used(head, length))
        return found

    def disable_calls(self) -> None:
        """Ask for no calls; with EVENT_IDX the index stays behind and says so."""
        self._calls = False
        self._avail16[_FLAGS] = _NO_INTERRUPT
        if self._event_idx:
            self._avail16[_RING + self.size] = (self._seen - 1) & 0xFFFF

    def snapshot(self) -> RingState:
        """What another driver needs to go on. Raises: UsageError, if something is unpublished."""
        if self._added != self._shown:
            raise UsageError("chains were added and not published")
        return RingState(
            tuple(self._free),
            tuple(tuple(chain) for chain in self._chains.values()),
            self._added,
            self._seen,
            self._calls,
        )

    def restore(self, state: RingState) -> None:
        """Go on with a ring in use. Raises: RingError."""
        entries = [*state.free, *(entry for chain in state.chains for entry in chain)]
        if sorted(entries) != list(range(self.size)) or not all(state.chains):
            raise RingError("entries are missing, or in two places")
        if not (0 <= state.next_position <= _U16 and 0 <= state.seen_position <= _U16):
            raise RingError(f"{state.next_position}, {state.seen_position}: no 16-bit indexes")
        under_way = (state.next_position - state.seen_position) & _U16
        if under_way != len(state.chains):
            raise RingError(f"{len(state.chains)} chains are under way, {under_way} by the indexes")
        if self._avail16[_IDX] != state.next_position:
            raise RingError(f"memory has index {self._avail16[_IDX]}, not {state.next_position}")
        if (self._used16[_IDX] - state.seen_position) & _U16 > under_way:
            raise RingError("more chains are used than were under way")
        self._free = list(state.free)
        self._chains = {chain[0]: list(chain) for chain in state.chains}
        self._added = self._shown = state.next_position
        self._seen, self._calls = state.seen_position, state.wants_calls

    def release(self) -> None:
        """Let go of the memory."""
        for view in (self._avail16, self._used16, self._desc, self._avail, self._used):
            view.release()
