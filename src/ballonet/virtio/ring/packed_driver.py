"""Packed ring, driver side; the layout and the meaning of its bits stand in packed.py.

Source: VIRTIO 1.4 2.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from ballonet.errors import RingError, UsageError
from ballonet.virtio.ring.chain import GuestView, Piece
from ballonet.virtio.ring.descriptors import DESCRIPTOR_BYTES, F_NEXT, F_WRITE
from ballonet.virtio.ring.driver import RingPlace, RingState, Used
from ballonet.virtio.ring.notify import Fence, wants_event
from ballonet.virtio.ring.packed import packed_area_bytes

__all__ = ["PackedDriverRing", "packed_place", "packed_ring_bytes"]

_BODY: Final = Struct("<QIH")
_LENGTH_AND_ID: Final = Struct("<IH")
_LENGTH_AT: Final = 8
_FLAGS, _WORDS = 7, 8
_AVAIL, _USED = 1 << 7, 1 << 15
_ALWAYS, _NEVER, _AT_POSITION = 0, 1, 2
_WRAP: Final = 1 << 15


def packed_place(gpa: int, size: int) -> RingPlace:
    """Where the areas lie if the ring begins at `gpa`."""
    events = gpa + DESCRIPTOR_BYTES * size
    return RingPlace(gpa, events, events + 4)


def packed_ring_bytes(size: int) -> int:
    """Bytes from the start of a ring to its end."""
    return sum(packed_area_bytes(size))


class PackedDriverRing:
    """One packed virtqueue as the driver sees it; a `DriverRing`."""

    def __init__(
        self, memory: GuestView, place: RingPlace, size: int, fence: Fence, *, event_idx: bool
    ) -> None:
        self.size: Final = size
        self.place: Final = place
        self._desc = memory.view(place.desc, DESCRIPTOR_BYTES * size)
        self._words = self._desc.cast("H")
        self._driver_event = memory.view(place.avail, 4).cast("I")
        self._device_event = memory.view(place.used, 4).cast("I")
        self._fence, self._event_idx = fence, event_idx
        self._ids = list(range(size - 1, -1, -1))
        self._slots: dict[int, int] = {}  # of each chain under way, by id
        # Positions count two laps: the wrap counter is 1 in the first.
        self._next = self._seen = self._added = 0
        self._unseen: tuple[int, int] | None = None
        self._calls = True

    @property
    def free_descriptors(self) -> int:
        """Slots that belong to no chain under way."""
        return self.size - sum(self._slots.values())

    @property
    def base(self) -> int:
        """Everything the device has not used is to be read again."""
        position, slots = self._seen, dict(self._slots)
        while slots and self._is_used(position):
            self._fence()  # the flags before the rest
            position = (position + slots.pop(self._used_at(position)[1])) % (2 * self.size)
        place = self._place(position)
        return place << 16 | place

    def add(self, readable: Sequence[Piece], writable: Sequence[Piece] = ()) -> int:
        """Make a chain; returns its id. Raises: RingError."""
        pieces = [(gpa, length, 0) for gpa, length in readable]
        pieces += [(gpa, length, F_WRITE) for gpa, length in writable]
        if not 0 < len(pieces) <= self.free_descriptors:
            raise RingError(f"{len(pieces)} slots wanted, {self.free_descriptors} are free")
        buffer_id = self._ids.pop()
        for i, (gpa, length, writable_flag) in enumerate(pieces):
            flags = writable_flag | (F_NEXT if i < len(pieces) - 1 else 0)
            flags |= _AVAIL if self._next < self.size else _USED
            slot = self._next % self.size
            _BODY.pack_into(self._desc, DESCRIPTOR_BYTES * slot, gpa, length, buffer_id)
            if self._unseen is None:
                self._unseen = slot, flags  # the first of a batch shows it, so it is written last
            else:
                self._words[_WORDS * slot + _FLAGS] = flags
            self._next = (self._next + 1) % (2 * self.size)
        self._slots[buffer_id] = len(pieces)
        self._added += len(pieces)
        return buffer_id

    def publish(self) -> bool:
        """Show the device what was added; True if it wants a kick."""
        if self._unseen is not None:
            slot, flags = self._unseen
            self._fence()  # everything else before the flags of the first
            self._words[_WORDS * slot + _FLAGS] = flags
            self._unseen = None
        self._fence()  # the flags before the device's event flags
        added, self._added = self._added, 0
        event = self._device_event[0]
        event_flags = event >> 16 & 3
        if event_flags != _AT_POSITION:
            return event_flags != _NEVER
        offset, wrap = event & ~_WRAP & 0xFFFF, bool(event & _WRAP)
        now = self._next % self.size
        if wrap != (self._next < self.size):
            offset -= self.size
        return wants_event(offset, now, now - added)

    def collect(self) -> list[Used]:
        """Chains that came back. Raises: RingError."""
        found = []
        while self._slots and self._is_used(self._seen):
            self._fence()  # the flags before the rest
            length, buffer_id = self._used_at(self._seen)
            slots = self._slots.pop(buffer_id, None)
            if slots is None:
                raise RingError(f"the device returned {buffer_id}, which it did not have")
            self._ids.append(buffer_id)
            self._seen = (self._seen + slots) % (2 * self.size)
            if self._event_idx and self._calls:
                self._driver_event[0] = _AT_POSITION << 16 | self._place(self._seen)
                self._fence()  # the event flags before the last look
            found.append(Used(buffer_id, length))
        return found

    def disable_calls(self) -> None:
        """Ask for no calls."""
        self._calls = False
        self._driver_event[0] = _NEVER << 16

    def snapshot(self) -> RingState:
        """What another driver needs to go on. Raises: UsageError, if something is unpublished."""
        if self._unseen is not None:
            raise UsageError("chains were added and not published")
        return RingState(
            tuple(self._ids), tuple(self._slots.items()), self._next, self._seen, self._calls
        )

    def restore(self, state: RingState) -> None:
        """Go on with a ring in use. Raises: RingError."""
        if any(len(chain) != 2 or chain[1] < 1 for chain in state.chains):
            raise RingError("a chain is an id and at least one slot")
        ids = [*state.free, *(chain[0] for chain in state.chains)]
        if sorted(ids) != list(range(self.size)):
            raise RingError("ids are missing, or in two places")
        laps = 2 * self.size
        if not (0 <= state.next_position < laps and 0 <= state.seen_position < laps):
            raise RingError(f"{state.next_position}, {state.seen_position}: beyond the ring")
        under_way = sum(slots for _, slots in state.chains)
        if under_way > self.size or (state.next_position - state.seen_position) % laps != under_way:
            raise RingError(
                f"{under_way} slots are under way, by the positions it is another number"
            )
        self._ids, self._slots = list(state.free), {chain[0]: chain[1] for chain in state.chains}
        self._next, self._seen = state.next_position, state.seen_position
        self._added, self._unseen, self._calls = 0, None, state.wants_calls

    def release(self) -> None:
        """Let go of the memory."""
        for view in (self._words, self._desc, self._driver_event, self._device_event):
            view.release()

    def _is_used(self, position: int) -> bool:
        flags = self._words[_WORDS * (position % self.size) + _FLAGS] & (_AVAIL | _USED)
        return flags == (_AVAIL | _USED if position < self.size else 0)

    def _used_at(self, position: int) -> tuple[int, int]:
        """Length and id of a used descriptor."""
        at = DESCRIPTOR_BYTES * (position % self.size) + _LENGTH_AT
        length, buffer_id = _LENGTH_AND_ID.unpack_from(self._desc, at)
        return length, buffer_id

    def _place(self, position: int) -> int:
        return position % self.size | (_WRAP if position < self.size else 0)
