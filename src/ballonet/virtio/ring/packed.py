"""Packed ring, device side.

    descriptor ring, 16 bytes each    le64 addr, le32 len, le16 id, le16 flags
    driver event, device event        le16 offset (15 bits) and wrap counter, le16 event flags

Theory of operation.  There is one ring, which the driver fills with available descriptors and the
device overwrites with used ones.  Each side walks round it and turns a wrap counter at the end of
a lap; the two bits AVAIL and USED, held against that counter, say whose a descriptor is.  Here a
place and its wrap counter are one *position*, counted modulo two laps: the slot is the rest modulo
the size, the counter is 1 in the first lap and 0 in the second.  A used descriptor stands for the
whole list whose id it bears, and the device goes on as many slots as that list had.
Flags are read and written as aligned 16-bit words, events as 32-bit words, so neither side sees
half of one.  The host must be little-endian, as rings are.
Not here: where the areas lie (vhost_user), what a chain means (device), checks that are the same
in both formats (descriptors.py).
Source: VIRTIO 1.4 2.8; vhost-user.rst, "Ring states", for the base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

import numpy as np

from ballonet.errors import RingError
from ballonet.virtio.ring.chain import Chain, GuestView
from ballonet.virtio.ring.descriptors import (
    CHAIN_MAX,
    DESCRIPTOR_BYTES,
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    Descriptor,
    IndirectTables,
    make_chain,
)
from ballonet.virtio.ring.notify import Fence, wants_event

__all__ = ["PackedAreas", "PackedRing", "check_packed_base", "packed_area_bytes"]

_DESCRIPTOR: Final = Struct("<QIHH")
_USED_LENGTH_AND_ID: Final = Struct("<IH")
_USED_AT: Final = 8  # bytes from the start of a descriptor
_AVAIL, _USED = 1 << 7, 1 << 15
#: Flags among the eight 16-bit words of a descriptor.
_FLAGS, _WORDS = 7, 8
#: What an event area asks for: always, never, or when its position is passed (EVENT_IDX only).
_ALWAYS, _NEVER, _AT_POSITION = 0, 1, 2
_WRAP: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class PackedAreas:
    """The three areas of a packed ring, as windows on guest memory."""

    desc: memoryview
    driver_event: memoryview  #: written by the driver: when it wants a call
    device_event: memoryview  #: written by the device: when it wants a kick


def packed_area_bytes(size: int) -> tuple[int, int, int]:
    """Bytes of descriptor ring, driver event and device event."""
    return DESCRIPTOR_BYTES * size, 4, 4


def check_packed_base(base: int, size: int) -> None:
    """Raises: RingError, unless a ring of this size can stand at this base."""
    avail, used = base & 0xFFFF, base >> 16
    gap = (_position(avail, size) - _position(used, size)) % (2 * size)
    if (avail & ~_WRAP) >= size or (used & ~_WRAP) >= size or gap > size:
        raise RingError(f"base {base:#x} in a queue of {size}")


class PackedRing:
    """One packed virtqueue as the device sees it; a `DeviceRing`.

    `base` has passed `check_packed_base`.
    """

    def __init__(
        self,
        areas: PackedAreas,
        memory: GuestView,
        fence: Fence,
        *,
        base: int,
        event_idx: bool,
        indirect: bool,
    ) -> None:
        self.size = len(areas.desc) // DESCRIPTOR_BYTES
        self._two_laps = 2 * self.size
        self._areas, self._desc = areas, areas.desc
        self._desc16 = areas.desc.cast("H")
        self._driver_event, self._device_event = (
            areas.driver_event.cast("I"),
            areas.device_event.cast("I"),
        )
        self._fence, self._event_idx = fence, event_idx
        self._tables = IndirectTables(memory, indirect, self.size)
        if base == 0 and not self._holds_used():
            base = _WRAP << 16 | _WRAP
        # Chains are used in order, so whatever lies between the two places was never answered: a
        # device that ended with it left it there.
        self._next_avail = self._next_used = _position(base >> 16, self.size)
        self._slots: dict[int, int] = {}  # of each chain in flight, by id; newest last
        self._unseen: tuple[int, int] | None = None  # slot and flags that will show a batch
        self._called: int | None = None  # _next_used at the last call; None: call at next chance

    @property
    def base(self) -> int:
        """Next available slot, its wrap counter, next used slot, its wrap counter: 15 + 1 bits."""
        avail = _offset_and_wrap(self._next_avail, self.size)
        return _offset_and_wrap(self._next_used, self.size) << 16 | avail

    def pop(self) -> Chain | None:
        """The next available chain, or None. Raises: RingError."""
        flags = self._desc16[_WORDS * (self._next_avail % self.size) + _FLAGS]
        if not self._is_available(flags):
            return None
        self._fence()  # the flags before the rest, and before the rest of the list
        outstanding = (self._next_avail - self._next_used) % self._two_laps
        if outstanding >= self.size:
            raise RingError(f"{outstanding} descriptors are outstanding in a queue of {self.size}")
        limit = self.size - outstanding
        buffer_id, descriptors = self._read_list(flags, min(limit, CHAIN_MAX))
        slots = len(descriptors)
        if buffer_id is None:
            buffer_id, slots = self._find_end(slots, limit)
        if buffer_id >= self.size:
            raise RingError(f"id {buffer_id} in a queue of {self.size}")
        if buffer_id in self._slots:
            raise RingError(f"id {buffer_id} is in flight already")
        chain = self._make_chain(buffer_id, descriptors, is_cut=slots > len(descriptors))
        self._slots[buffer_id] = slots
        self._next_avail = (self._next_avail + slots) % self._two_laps
        return chain

    def un_pop(self) -> None:
        """Make the chain popped last available again; it must still be in flight."""
        _, slots = self._slots.popitem()
        self._next_avail = (self._next_avail - slots) % self._two_laps

    def push(self, head: int, length: int) -> None:
        """Note a chain as used; `publish` shows it to the driver.

        Only the flags of the first in a batch are kept back: the driver looks at no later
        descriptor before it has seen this one [2.8.14].
        """
        slot = self._next_used % self.size
        at = DESCRIPTOR_BYTES * slot + _USED_AT
        _USED_LENGTH_AND_ID.pack_into(self._desc, at, length, head)
        flags = _AVAIL | _USED if self._next_used < self.size else 0
        flags |= F_WRITE if length else 0
        if self._unseen is None:
            self._unseen = slot, flags
        else:
            self._desc16[_WORDS * slot + _FLAGS] = flags
        self._next_used = (self._next_used + self._slots.pop(head)) % self._two_laps

    def publish(self) -> bool:
        """Show the driver all that was pushed; True if it wants a call."""
        if self._unseen is not None:
            slot, flags = self._unseen
            self._fence()  # everything else before the flags that show it
            self._desc16[_WORDS * slot + _FLAGS] = flags
            self._unseen = None
        self._fence()  # the flags before the driver's event flags are read
        called, self._called = self._called, self._next_used
        event = self._driver_event[0]
        event_flags = event >> 16 & 3
        if event_flags != _AT_POSITION or not self._event_idx:
            return event_flags != _NEVER
        passed = _position(event & 0xFFFF, self.size)
        return called is None or wants_event(passed, self._next_used, called)

    def disable_kicks(self) -> None:
        """Ask for no kicks."""
        self._device_event[0] = _NEVER << 16

    def enable_kicks(self) -> bool:
        """Ask for kicks again; True if chains came in meanwhile."""
        if self._event_idx:
            place = _offset_and_wrap(self._next_avail, self.size)
            self._device_event[0] = _AT_POSITION << 16 | place
        else:
            self._device_event[0] = _ALWAYS << 16
        self._fence()  # the event flags before the last look, or a kick may be lost
        return self._is_available(self._desc16[_WORDS * (self._next_avail % self.size) + _FLAGS])

    def release(self) -> None:
        """Give up every reference to guest memory."""
        areas = self._areas
        for view in (self._desc16, self._driver_event, self._device_event):
            view.release()
        for view in (areas.desc, areas.driver_event, areas.device_event):
            view.release()

    def _holds_used(self) -> bool:
        """True if a descriptor bears the USED bit, so that the ring is past its first lap's start.

        User-Mode Linux sends base 0 for a ring it has just made, though both wrap counters begin
        at 1; as vhost-user counts, 0 means that exactly an odd number of laps is done.  Then the
        lap before must have been used, and at least one chain began in it, which left a descriptor
        with USED set; the driver's next lap sets the bit too.  In a new ring, which is zero, the
        driver's first lap never sets it.  The first descriptor alone would not do: in the middle of
        a list that goes round the end it keeps the driver's flags.
        """
        return any(flags & _USED for flags in self._desc16[_FLAGS::_WORDS])

    def _is_available(self, flags: int) -> bool:
        """The driver has filled the next descriptor: AVAIL is the wrap counter, USED is not."""
        wanted = _AVAIL if self._next_avail < self.size else _USED
        return flags & (_AVAIL | _USED) == wanted

    def _read_list(self, flags: int, limit: int) -> tuple[int | None, list[Descriptor]]:
        """Id and descriptors of the list at the next position, each read once; no id: it goes on.

        Of the first the flags were read before.  Those of the others are not held against the
        wrap counter: the driver shows a list by its first descriptor [2.8.6].
        Raises: RingError.
        """
        descriptors: list[Descriptor] = []
        first = self._next_avail % self.size
        for i in range(limit):
            at = DESCRIPTOR_BYTES * ((first + i) % self.size)
            addr, length, buffer_id, flags_now = _DESCRIPTOR.unpack_from(self._desc, at)
            flags = flags_now if i else flags
            if flags & F_INDIRECT and (i or flags & F_NEXT):
                raise RingError(f"chain {buffer_id} has an indirect descriptor where none may be")
            descriptors.append((addr, length, flags))
            if not flags & F_NEXT:
                return buffer_id, descriptors
        return None, descriptors

    def _find_end(self, begin: int, limit: int) -> tuple[int, int]:
        """Id and number of slots of the list at the next position, whose first ones were read.

        Raises: RingError.
        """
        first = self._next_avail % self.size
        flags = np.frombuffer(self._desc, "<u2")[_FLAGS::_WORDS]
        ends = np.flatnonzero((np.roll(flags, -first)[begin:limit] & F_NEXT) == 0)
        if not ends.size:
            raise RingError(f"the chain at slot {first} loops or is too long")
        last = begin + int(ends[0])
        at = DESCRIPTOR_BYTES * ((first + last) % self.size)
        return int(_DESCRIPTOR.unpack_from(self._desc, at)[2]), last + 1

    def _make_chain(self, head: int, descriptors: list[Descriptor], *, is_cut: bool) -> Chain:
        if is_cut:
            return Chain(head, (), (), is_cut=True)
        if descriptors[0][2] & F_INDIRECT:
            return make_chain(head, self._read_table(head, descriptors[0]))
        return make_chain(head, descriptors)

    def _read_table(self, head: int, pointer: Descriptor) -> Iterator[Descriptor]:
        """The descriptors of an indirect table: in order, ids and other flags ignored [2.8.7].

        Raises: RingError.
        """
        table = self._tables.read(head, *pointer[:2])
        for addr, length, _, flags in _DESCRIPTOR.iter_unpack(table):
            if flags & F_INDIRECT:
                raise RingError(f"chain {head} has an indirect descriptor where none may be")
            yield addr, length, flags


def _position(offset_and_wrap: int, size: int) -> int:
    """From the form both sides write, offset and wrap counter in 16 bits."""
    return (offset_and_wrap & ~_WRAP) + (0 if offset_and_wrap & _WRAP else size)


def _offset_and_wrap(position: int, size: int) -> int:
    """To the form both sides write."""
    return position % size | (_WRAP if position < size else 0)
