"""Split ring, device side.

    descriptor table, 16 bytes each   le64 addr, le32 len, le16 flags, le16 next
    available ring                    le16 flags, le16 idx, le16 ring[N], le16 used_event
    used ring                         le16 flags, le16 idx, (le32 id, le32 len)[N], le16 avail_event

Every descriptor is read once into a value; indexes are read and written as aligned 16-bit words,
so neither side sees half of one.  The host must be little-endian, as rings are.
Not here: where the areas lie (vhost_user), what a chain means (device), checks that are the same
in both formats (descriptors.py).
Source: VIRTIO 1.4 2.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from ballonet.errors import RingError
from ballonet.virtio.ring.chain import Chain, GuestView
from ballonet.virtio.ring.descriptors import (
    DESCRIPTOR_BYTES,
    F_INDIRECT,
    F_NEXT,
    Descriptor,
    IndirectTables,
    make_chain,
)
from ballonet.virtio.ring.notify import Fence, wants_event

__all__ = ["SplitAreas", "SplitRing", "split_area_bytes"]

_DESCRIPTOR: Final = Struct("<QIHH")
_USED_ENTRY: Final = Struct("<II")
_NO_INTERRUPT = 1
_NO_NOTIFY = 1
#: Index of a 16-bit word in the available or used ring.
_FLAGS, _IDX, _RING = 0, 1, 2


@dataclass(frozen=True, slots=True)
class SplitAreas:
    """The three areas of a split ring, as windows on guest memory."""

    desc: memoryview
    avail: memoryview
    used: memoryview


def split_area_bytes(size: int) -> tuple[int, int, int]:
    """Bytes of descriptor table, available ring and used ring, event words included."""
    return 16 * size, 6 + 2 * size, 6 + 8 * size


class SplitRing:
    """One split virtqueue as the device sees it; a `DeviceRing`."""

    def __init__(
        self,
        areas: SplitAreas,
        memory: GuestView,
        fence: Fence,
        *,
        base: int,
        event_idx: bool,
        indirect: bool,
    ) -> None:
        self.size = len(areas.desc) // 16
        self.outstanding = 0
        self._areas, self._desc, self._used = areas, areas.desc, areas.used
        self._avail16, self._used16 = areas.avail.cast("H"), areas.used.cast("H")
        self._fence, self._event_idx = fence, event_idx
        self._tables = IndirectTables(memory, indirect, self.size)
        self._next_used = self._used16[_IDX]
        self._next_avail = self._seen_avail = self._first_unanswered(base & 0xFFFF)
        self._called: int | None = (
            None  # used index at the last call; None: call at the next chance
        )

    @property
    def base(self) -> int:
        """Index of the next available entry to read."""
        return self._next_avail

    def pop(self) -> Chain | None:
        """The next available chain, or None. Raises: RingError."""
        if self._seen_avail == self._next_avail and not self._look():
            return None
        if self.outstanding >= self.size:
            raise RingError(f"{self.outstanding} chains are outstanding in a queue of {self.size}")
        head = self._avail16[_RING + self._next_avail % self.size]
        if head >= self.size:
            raise RingError(f"head {head} in a queue of {self.size}")
        addr, length, flags, _ = _DESCRIPTOR.unpack_from(self._desc, DESCRIPTOR_BYTES * head)
        if length and not flags:  # one buffer to read, which is what messages mostly are
            chain = Chain(head, ((addr, length),), ())
        else:
            chain = make_chain(head, self._descriptors(head))
        self._next_avail = (self._next_avail + 1) & 0xFFFF
        self.outstanding += 1
        return chain

    def un_pop(self) -> None:
        """Make the chain popped last available again."""
        self._next_avail = (self._next_avail - 1) & 0xFFFF
        self.outstanding -= 1

    def push(self, head: int, length: int) -> None:
        """Note a chain as used; `publish` shows it to the driver."""
        slot = self._next_used % self.size
        _USED_ENTRY.pack_into(self._used, 4 + 8 * slot, head, length)
        self._next_used = (self._next_used + 1) & 0xFFFF
        self.outstanding -= 1

    def publish(self) -> bool:
        """Show the driver all that was pushed; True if it wants a call."""
        self._fence()  # entries before the index
        self._used16[_IDX] = self._next_used
        self._fence()  # the index before the driver's wish is read [2.7.10]
        called, self._called = self._called, self._next_used
        if not self._event_idx:
            return not self._avail16[_FLAGS] & _NO_INTERRUPT
        used_event = self._avail16[_RING + self.size]
        return called is None or wants_event(used_event, self._next_used, called)

    def disable_kicks(self) -> None:
        """Ask for no kicks; with EVENT_IDX the stale avail_event says so by itself."""
        if not self._event_idx:
            self._used16[_FLAGS] = _NO_NOTIFY

    def enable_kicks(self) -> bool:
        """Ask for kicks again; True if chains came in meanwhile. Raises: RingError."""
        if self._event_idx:
            self._used16[_RING + 4 * self.size] = self._next_avail
        else:
            self._used16[_FLAGS] = 0
        self._fence()  # the wish before the last look, or a kick may be lost
        return self._look()

    def release(self) -> None:
        """Give up every reference to guest memory."""
        areas = self._areas
        for view in (self._avail16, self._used16, areas.desc, areas.avail, areas.used):
            view.release()

    def _first_unanswered(self, base: int) -> int:
        """Where to begin: chains are used in order, so at the used index.

        A front-end that lost its device may say the available index instead; chains that the lost
        one had taken and not answered would never be.  If the driver cannot have come that far, the
        used index is not to be trusted.
        """
        behind = (self._avail16[_IDX] - self._next_used) & 0xFFFF
        return self._next_used if behind <= self.size else base

    def _look(self) -> bool:
        """Read the driver's index; True if chains wait."""
        avail_idx = self._avail16[_IDX]
        waiting = (avail_idx - self._next_avail) & 0xFFFF
        if waiting > self.size:
            raise RingError(
                f"available index jumped from {self._next_avail} to {avail_idx},"
                f" the queue has {self.size} entries"
            )
        self._fence()  # the index before the entries it covers
        self._seen_avail = avail_idx
        return waiting > 0

    def _descriptors(self, head: int) -> Iterator[Descriptor]:
        """Address, length and flags of each buffer of a chain, indirect ones too, in order."""
        table: memoryview | bytes = self._desc
        size, index, in_table = self.size, head, False
        left = size  # in a chain that does not loop no descriptor comes twice
        while left:
            left -= 1
            addr, length, flags, next_index = _DESCRIPTOR.unpack_from(table, 16 * index)
            if flags & F_INDIRECT:
                if in_table or flags & F_NEXT:
                    raise RingError(f"chain {head} has an indirect descriptor where none may be")
                table = self._tables.read(head, addr, length)
                size, index, in_table = length // 16, 0, True
                left = size
                continue
            yield addr, length, flags
            if not flags & F_NEXT:
                return
            if next_index >= size:
                raise RingError(f"chain {head} goes on at {next_index} in a table of {size}")
            index = next_index
        raise RingError(f"chain {head} loops or is too long")
