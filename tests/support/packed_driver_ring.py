"""Packed virtqueue, driver side, with levers for drivers that break the rules.

Part of the test peer, which shares no code with the package under test; the same shape as
`DriverRing`, so that tests can run over both formats.

    descriptor ring   N x (le64 addr, le32 len, le16 id, le16 flags)   aligned to 16
    driver event      le16 offset (15 bits) and wrap counter, le16 flags   aligned to 4
    device event      the same

Flags are stored and loaded as whole 16-bit words, events as 32-bit words.
Source: VIRTIO 1.4 2.8; whether to kick is counted as Linux's virtio_ring.c does.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.support.driver_ring import (
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    Buffer,
    Used,
    fence,
    needs_event,
)
from tests.support.guest_memory import GuestRam

F_AVAIL: Final = 1 << 7
F_USED: Final = 1 << 15
EVENT_ENABLE: Final = 0
EVENT_DISABLE: Final = 1
EVENT_DESC: Final = 2

_DESC: Final = struct.Struct("<QIHH")
_BODY: Final = struct.Struct("<QIH")
_WRAP: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Guest-physical addresses of the three parts; names as in the split ring's layout."""

    desc: int
    avail: int  #: driver event
    used: int  #: device event
    end: int

    @classmethod
    def at(cls, gpa: int, size: int) -> PackedLayout:
        """Lay a ring of `size` entries out from `gpa`, which must be a multiple of 16."""
        if gpa % 16 or not 0 < size <= 1 << 15:
            raise ValueError(f"no ring of {size} entries can begin at {gpa:#x}")
        events = gpa + 16 * size
        return cls(gpa, events, events + 4, events + 8)


class Place(NamedTuple):
    """A slot and the wrap counter that goes with it."""

    slot: int = 0
    wrap: bool = True

    def after(self, steps: int, size: int) -> Place:
        """So many slots on; at most one lap."""
        slot = self.slot + steps
        return Place(slot - size, not self.wrap) if slot >= size else Place(slot, self.wrap)

    def packed(self) -> int:
        """As both sides write it: 15 bits and 1."""
        return self.slot | (_WRAP if self.wrap else 0)


class PackedDriverRing:
    """The driver's half of one queue, in memory it shares with the device."""

    def __init__(
        self,
        ram: GuestRam,
        gpa: int,
        size: int,
        *,
        event_idx: bool = False,
        start: Place = Place(),  # noqa: B008 - immutable
    ) -> None:
        self.size: Final = size
        self.layout: Final = PackedLayout.at(gpa, size)
        self.event_idx: Final = event_idx
        place = self.layout
        ram.write(place.desc, bytes(place.end - place.desc))
        self._ram = ram
        self._desc = ram.view(place.desc, 16 * size)
        self._words = self._desc.cast("H")
        self._driver_event = ram.view(place.avail, 4).cast("I")
        self._device_event = ram.view(place.used, 4).cast("I")
        # Ids in an order of their own, so that no device can take them for slots.
        self._free_ids: deque[int] = deque(reversed(range(size)))
        self._slots: dict[int, int] = {}  # id -> slots its list has
        self._next, self._seen = start, start
        self._added_slots = self._avail_count = self._seen_count = 0
        self._unseen: tuple[int, int] | None = None  # slot and flags that will show a batch
        self._wants_calls = True
        if not start.wrap or start.slot:
            self._pretend_laps(start)

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self._words, self._desc, self._driver_event, self._device_event):
            view.release()

    @property
    def free_descriptors(self) -> int:
        """Slots that belong to no chain in flight."""
        return self.size - sum(self._slots.values())

    @property
    def in_flight(self) -> set[int]:
        """Ids of chains the device has not used yet."""
        return set(self._slots)

    @property
    def avail_idx(self) -> int:
        """Number of chains made available so far, modulo 2^16."""
        return self._avail_count & 0xFFFF

    @property
    def used_idx(self) -> int:
        """Number of chains the device has used so far, as it stands in memory, modulo 2^16."""
        count, place, slots = self._seen_count, self._seen, dict(self._slots)
        while slots and self._is_used(place):
            fence()
            place = place.after(slots.pop(self.read_descriptor(place.slot)[2]), self.size)
            count += 1
        return count & 0xFFFF

    @property
    def base(self) -> int:
        """What vhost-user calls the base of an idle ring here."""
        return self._next.packed() | self._seen.packed() << 16

    @property
    def device_event(self) -> tuple[int, int]:
        """What the device asks for: flags, and the place that goes with EVENT_DESC."""
        event = self._device_event[0]
        return event >> 16, event & 0xFFFF

    def add(self, buffers: Sequence[Buffer], *, indirect_at: int | None = None) -> int:
        """Make one chain, not visible before `publish`; returns its id.

        With `indirect_at`, the chain is written as a table at that address.
        """
        needed = 1 if indirect_at is not None else len(buffers)
        if not 0 < needed <= self.free_descriptors:
            raise ValueError(f"{needed} slots wanted, {self.free_descriptors} are free")
        buffer_id = self._free_ids.popleft()
        if indirect_at is not None:
            table = b"".join(_DESC.pack(b.gpa, b.length, 0, _write_flag(b)) for b in buffers)
            self._ram.write(indirect_at, table)
            entries = [(indirect_at, len(table), F_INDIRECT)]
        else:
            last = len(buffers) - 1
            entries = [
                (b.gpa, b.length, _write_flag(b) | (F_NEXT if i < last else 0))
                for i, b in enumerate(buffers)
            ]
        self.add_raw(buffer_id, entries)
        self._slots[buffer_id] = needed
        return buffer_id

    def add_raw(self, buffer_id: int, entries: Sequence[tuple[int, int, int]]) -> None:
        """Write a list of (addr, len, flags) as it stands, all with the id that is given."""
        place = self._next
        for i, (addr, length, flags) in enumerate(entries):
            mark = F_AVAIL if place.wrap else F_USED
            _BODY.pack_into(self._desc, 16 * place.slot, addr, length, buffer_id)
            if i == 0 and self._unseen is None:
                self._unseen = place.slot, flags | mark
            else:
                self._words[8 * place.slot + 7] = flags | mark
            place = place.after(1, self.size)
        self._next = place
        self._added_slots += len(entries)
        self._avail_count += 1

    def publish(self) -> bool:
        """Show the device every chain added; True if it wants a kick."""
        if self._unseen is not None:
            slot, flags = self._unseen
            fence()  # everything else before the flags of the first
            self._words[8 * slot + 7] = flags
            self._unseen = None
        fence()  # the flags before the device's wish is read
        added, self._added_slots = self._added_slots, 0
        wish, wanted = self.device_event
        if wish != EVENT_DESC:
            return wish != EVENT_DISABLE
        event = wanted & ~_WRAP
        if bool(wanted & _WRAP) != self._next.wrap:
            event -= self.size
        return needs_event(event, self._next.slot, self._next.slot - added)

    def collect(self) -> list[Used]:
        """Take back every chain the device has used since the last time, in its order.

        Raises: AssertionError, if the device returned what it was not given.
        """
        found: list[Used] = []
        while self._is_used(self._seen):
            fence()  # the flags before the rest
            _, length, buffer_id, _ = self.read_descriptor(self._seen.slot)
            if buffer_id not in self._slots:
                raise AssertionError(f"{buffer_id} was not in flight, {self.in_flight} are")
            self._seen = self._seen.after(self._slots.pop(buffer_id), self.size)
            self._seen_count += 1
            self._free_ids.append(buffer_id)
            found.append(Used(buffer_id, length))
            if self._wants_calls:
                self._ask()
        return found

    def want_calls(self, wanted: bool) -> None:
        """Ask the device for calls, or for none."""
        self._wants_calls = wanted
        self._ask()

    def set_driver_event(self, flags: int, place: int) -> None:
        """Write the driver's event area, as one word."""
        self._driver_event[0] = flags << 16 | place

    def write_descriptor(self, i: int, addr: int, length: int, buffer_id: int, flags: int) -> None:
        """Write one descriptor, whoever owns it."""
        _DESC.pack_into(self._desc, 16 * i, addr, length, buffer_id, flags)
        fence()

    def read_descriptor(self, i: int) -> tuple[int, int, int, int]:
        """Address, length, id and flags of one descriptor."""
        addr, length, buffer_id, flags = _DESC.unpack_from(self._desc, 16 * i)
        return addr, length, buffer_id, flags

    def _is_used(self, place: Place) -> bool:
        wanted = F_AVAIL | F_USED if place.wrap else 0
        flags = self._words[8 * place.slot + 7]
        return flags & (F_AVAIL | F_USED) == wanted

    def _ask(self) -> None:
        if not self._wants_calls:
            self.set_driver_event(EVENT_DISABLE, 0)
        elif self.event_idx:
            self.set_driver_event(EVENT_DESC, self._seen.packed())
        else:
            self.set_driver_event(EVENT_ENABLE, 0)
        fence()

    def _pretend_laps(self, start: Place) -> None:
        """Leave the descriptors as if every slot before this place had been used."""
        for slot in range(self.size):
            used_wrap = start.wrap if slot < start.slot else not start.wrap
            self._words[8 * slot + 7] = (F_AVAIL | F_USED) if used_wrap else 0


def _write_flag(buffer: Buffer) -> int:
    return F_WRITE if buffer.is_writable else 0
