"""Split virtqueue, driver side, with levers for drivers that break the rules.

Part of the test peer, which shares no code with the package under test.

    descriptor table  N x (le64 addr, le32 len, le16 flags, le16 next)   aligned to 16
    available ring    le16 flags, le16 idx, N x le16, le16 used_event    aligned to 2
    used ring         le16 flags, le16 idx, N x (le32 id, le32 len), le16 avail_event   aligned to 4

Indexes are stored and loaded as whole 16-bit words.  Source: VIRTIO 1.4 2.7.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, NamedTuple

from tests.support.guest_memory import GuestRam

F_NEXT: Final = 1
F_WRITE: Final = 2
F_INDIRECT: Final = 4
AVAIL_NO_INTERRUPT: Final = 1
USED_NO_NOTIFY: Final = 1

_DESC: Final = struct.Struct("<QIHH")
_USED: Final = struct.Struct("<II")
_MASK: Final = 0xFFFF
_lock: Final = Lock()


class Buffer(NamedTuple):
    """One descriptor's worth of guest memory."""

    gpa: int
    length: int
    is_writable: bool = False  #: by the device


class Used(NamedTuple):
    """One entry of the used ring."""

    head: int
    length: int


@dataclass(frozen=True, slots=True)
class RingLayout:
    """Guest-physical addresses of the three parts, one behind the other."""

    desc: int
    avail: int
    used: int
    end: int

    @classmethod
    def at(cls, gpa: int, size: int) -> RingLayout:
        """Lay a ring of `size` entries out from `gpa`, which must be a multiple of 16."""
        if gpa % 16 or size < 1 or size & (size - 1):
            raise ValueError(f"no ring of {size} entries can begin at {gpa:#x}")
        avail = gpa + 16 * size
        used = (avail + 4 + 2 * size + 2 + 3) & ~3
        return cls(gpa, avail, used, used + 4 + 8 * size + 2)


def needs_event(event: int, new: int, old: int) -> bool:
    """The other side asked to hear when `event` is passed, and the step from old to new does it."""
    return ((new - event - 1) & _MASK) < ((new - old) & _MASK)


def fence() -> None:
    """Order our stores before our next loads: taking a lock is an atomic operation."""
    with _lock:
        pass


class DriverRing:
    """The driver's half of one queue, in memory it shares with the device."""

    def __init__(self, ram: GuestRam, gpa: int, size: int, *, event_idx: bool = False) -> None:
        self.size: Final = size
        self.layout: Final = RingLayout.at(gpa, size)
        self.event_idx: Final = event_idx
        place = self.layout
        ram.write(place.desc, bytes(place.end - place.desc))
        self._ram = ram
        self._desc = ram.view(place.desc, 16 * size)
        self._avail = ram.view(place.avail, 6 + 2 * size).cast("H")
        self._used = ram.view(place.used, 6 + 8 * size)
        self._used_words = self._used.cast("H")
        self._free: list[int] = list(range(size))
        self._chains: dict[int, list[int]] = {}  # head -> its descriptors
        self._avail_idx = self._told_idx = self._seen_used = 0
        self._wants_calls = True

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self._desc, self._avail, self._used_words, self._used):
            view.release()

    @property
    def free_descriptors(self) -> int:
        """Descriptors that belong to no chain in flight."""
        return len(self._free)

    @property
    def in_flight(self) -> set[int]:
        """Heads of chains the device has not used yet."""
        return set(self._chains)

    @property
    def avail_idx(self) -> int:
        """Number of chains made available so far, modulo 2^16."""
        return self._avail_idx

    @property
    def used_idx(self) -> int:
        """The device's index, as it stands in memory."""
        return self._used_words[1]

    @property
    def used_flags(self) -> int:
        """The device's flags."""
        return self._used_words[0]

    @property
    def avail_event(self) -> int:
        """The index at which the device wants the next kick."""
        return self._used_words[2 + 4 * self.size]

    def add(self, buffers: Sequence[Buffer], *, indirect_at: int | None = None) -> int:
        """Make one chain, not visible before `publish`; returns its head.

        With `indirect_at`, the chain is written as a table at that address.
        """
        needed = 1 if indirect_at is not None else len(buffers)
        if not 0 < needed <= len(self._free):
            raise ValueError(f"{needed} descriptors wanted, {len(self._free)} are free")
        taken = [self._free.pop(0) for _ in range(needed)]
        if indirect_at is None:
            self._write_chain(buffers, taken)
        else:
            table = _pack_table(buffers)
            self._ram.write(indirect_at, table)
            self.write_descriptor(taken[0], indirect_at, len(table), F_INDIRECT, 0)
        head = taken[0]
        self._chains[head] = taken
        self.set_avail_entry(self._avail_idx, head)
        self._avail_idx = (self._avail_idx + 1) & _MASK
        return head

    def publish(self) -> bool:
        """Show the device every chain added; True if it wants a kick."""
        fence()  # descriptors and entries before the index
        self._avail[1] = self._avail_idx
        fence()  # the index before the device's wish is read
        old, self._told_idx = self._told_idx, self._avail_idx
        if self.event_idx:
            return needs_event(self.avail_event, self._avail_idx, old)
        return not self.used_flags & USED_NO_NOTIFY

    def collect(self) -> list[Used]:
        """Take back every chain the device has used since the last time, in its order.

        Raises: AssertionError, if the device returned what it was not given.
        """
        found: list[Used] = []
        while self._seen_used != self.used_idx:
            fence()  # the index before the entries
            entry = Used(*_USED.unpack_from(self._used, 4 + 8 * (self._seen_used % self.size)))
            if entry.head not in self._chains:
                raise AssertionError(f"{entry} was not in flight, {self.in_flight} are")
            self._free += self._chains.pop(entry.head)
            self._seen_used = (self._seen_used + 1) & _MASK
            found.append(entry)
            if self._wants_calls:
                self._ask()
        return found

    def want_calls(self, wanted: bool) -> None:
        """Ask the device for calls, or for none."""
        self._wants_calls = wanted
        self._ask()

    def set_used_event(self, index: int) -> None:
        """Ask to hear when the device passes this index; counts only with EVENT_IDX."""
        self._avail[2 + self.size] = index & _MASK

    def set_avail_flags(self, flags: int) -> None:
        """Write the available ring's flags."""
        self._avail[0] = flags

    def set_avail_idx(self, index: int) -> None:
        """Write the available index, whatever was added."""
        self._avail[1] = index & _MASK
        fence()

    def set_avail_entry(self, index: int, head: int) -> None:
        """Write the entry an available index stands for."""
        self._avail[2 + index % self.size] = head

    def write_descriptor(self, i: int, addr: int, length: int, flags: int, following: int) -> None:
        """Write one descriptor, whoever owns it."""
        _DESC.pack_into(self._desc, 16 * i, addr, length, flags, following)

    def read_descriptor(self, i: int) -> tuple[int, int, int, int]:
        """Address, length, flags and next of one descriptor."""
        addr, length, flags, following = _DESC.unpack_from(self._desc, 16 * i)
        return addr, length, flags, following

    def _write_chain(self, buffers: Sequence[Buffer], taken: list[int]) -> None:
        for place, (buffer, index) in enumerate(zip(buffers, taken, strict=True)):
            is_last = place == len(taken) - 1
            flags = (F_WRITE if buffer.is_writable else 0) | (0 if is_last else F_NEXT)
            following = 0 if is_last else taken[place + 1]
            self.write_descriptor(index, buffer.gpa, buffer.length, flags, following)

    def _ask(self) -> None:
        if self.event_idx:
            # An index just behind what was seen is passed only after 2^16 - 1 more entries.
            self.set_used_event(self._seen_used if self._wants_calls else self._seen_used - 1)
        else:
            self.set_avail_flags(0 if self._wants_calls else AVAIL_NO_INTERRUPT)
        fence()


def _pack_table(buffers: Sequence[Buffer]) -> bytes:
    """An indirect table that holds one chain."""
    last = len(buffers) - 1
    return b"".join(
        _DESC.pack(
            buffer.gpa,
            buffer.length,
            (F_WRITE if buffer.is_writable else 0) | (F_NEXT if i < last else 0),
            i + 1 if i < last else 0,
        )
        for i, buffer in enumerate(buffers)
    )
