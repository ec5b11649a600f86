"""A front-end that has started, with its memory and rings, and a small balloon driver on top.

Part of the test peer, which shares no code with the package under test.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np
from tests.support.driver_ring import Buffer, DriverRing, Used
from tests.support.front_end import FrontEnd, TableRegion
from tests.support.guest_memory import PAGE_BYTES, GuestRam, RamRegion
from tests.support.packed_driver_ring import PackedDriverRing
from tests.support.wire import TIMEOUT_S

INFLATE: Final = 0
DEFLATE: Final = 1
STATS: Final = 2  # dense and fixed numbers agree up to here, if STATS_VQ was negotiated
HINT: Final = 3  # if STATS_VQ and FREE_PAGE_HINT were negotiated
REPORTING: Final = 4  # if all queues were
QUEUES: Final = 5

_QUEUE_AREA_BYTES: Final = 64 << 10
_BUFFERS_AT: Final = 32 << 10
_STAT: Final = struct.Struct("<HQ")


@dataclass(frozen=True, slots=True)
class ConfigStyle:
    """How a front-end turns the driver's four-byte accesses into messages."""

    is_whole: bool = False  #: reads everything, and writes everything back
    read_flags: int = 0
    write_flags: int = 0
    pieces: tuple[int, ...] = (4,)  #: bytes of each message, if not whole


WHOLE_BYTES: Final = 16
NUM_PAGES_AT: Final = 0
ACTUAL_AT: Final = 4
CMD_ID_AT: Final = 8
POISON_AT: Final = 12


class Served(Protocol):
    """A device that listens, and of which it can be told when it has nothing left to do."""

    @property
    def path(self) -> Path:
        """Where front-ends connect."""
        ...

    def rest(self) -> None:
        """Wait until nothing given to it waits to be dropped."""
        ...


def _never_rest() -> None:
    """For a device that cannot be asked."""


@dataclass(slots=True)
class Session:
    """One guest behind one front-end; a context manager that closes abruptly.

    The driver's rings and messages begin one page into the first region.
    """

    front_end: FrontEnd
    ram: GuestRam
    config_style: ConfigStyle
    queue_size: int
    offered: int = 0
    driver_features: int = 0  #: what the driver accepted, without vhost-user's own bit
    protocol: int = 0
    accepts_bit_30: bool = True  #: without it rings cannot be disabled
    rings: dict[int, DriverRing | PackedDriverRing] = field(default_factory=dict)
    rest: Callable[[], None] = _never_rest  #: until what was given is dropped

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up and give the memory back, as a front-end that is killed."""
        self.front_end.close()
        for ring in self.rings.values():
            ring.close()
        self.rings.clear()
        self.ram.close()

    def queue_gpa(self, queue: int) -> int:
        """Where the rings of a queue stand."""
        return self.ram.regions[0].gpa + PAGE_BYTES + queue * _QUEUE_AREA_BYTES

    def buffer_gpa(self, queue: int) -> int:
        """32 KiB for the messages of a queue."""
        return self.queue_gpa(queue) + _BUFFERS_AT

    def free_range(self, region: int = 0) -> tuple[int, int]:
        """First page and count of the pages of a region that hold nothing of the driver's."""
        chosen = self.ram.regions[region]
        first = chosen.gpa // PAGE_BYTES
        if region == 0:
            first = self.queue_gpa(QUEUES) // PAGE_BYTES
        return first, chosen.end_gpa // PAGE_BYTES - first

    def make_ring(
        self, queue: int, *, event_idx: bool, packed: bool = False
    ) -> DriverRing | PackedDriverRing:
        """A fresh ring for a queue; its messages' pages are touched, so they count as held."""
        if queue in self.rings:
            self.rings.pop(queue).close()
        gpa = self.queue_gpa(queue)
        self.ram.write(gpa, bytes(_QUEUE_AREA_BYTES))
        made = PackedDriverRing if packed else DriverRing
        self.rings[queue] = made(self.ram, gpa, self.queue_size, event_idx=event_idx)
        return self.rings[queue]

    def split_ring(self, queue: int) -> DriverRing:
        """The ring of a queue whose driver did not accept packed ones."""
        ring = self.rings[queue]
        if not isinstance(ring, DriverRing):
            raise TypeError(f"the ring of queue {queue} is packed")
        return ring

    def ring_uvas(self, queue: int) -> tuple[int, int, int]:
        """User addresses of a ring's three parts, in the order of `set_vring_addr`."""
        place = self.rings[queue].layout
        return self.ram.uva(place.desc), self.ram.uva(place.avail), self.ram.uva(place.used)

    def offer(
        self, queue: int, buffers: Sequence[Buffer], *, indirect_at: int | None = None
    ) -> int:
        """Make one chain available and kick if the device wants it; returns the head."""
        head = self.rings[queue].add(buffers, indirect_at=indirect_at)
        if self.rings[queue].publish():
            self.front_end.kick(queue)
        return head

    def wait_used(self, queue: int, timeout_s: float = TIMEOUT_S) -> list[Used]:
        """Sleep until the device calls, as the driver does; returns what it has used.

        Pages that were given have been dropped then.

        Raises: AssertionError, if no call brings a used chain in time.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            left_s = end_s - time.monotonic()
            if left_s <= 0 or not self.front_end.wait_call(queue, left_s):
                unseen = self.rings[queue].collect()
                raise AssertionError(f"queue {queue}: no call in {timeout_s} s, used: {unseen}")
            used = self.rings[queue].collect()
            if used:
                if queue == INFLATE:
                    self.rest()
                return used

    def transact(
        self, queue: int, buffers: Sequence[Buffer], *, indirect_at: int | None = None
    ) -> Used:
        """Offer one chain to an idle queue and wait until it is used."""
        head = self.offer(queue, buffers, indirect_at=indirect_at)
        used = self.wait_used(queue)
        if [entry.head for entry in used] != [head]:
            raise AssertionError(f"queue {queue}: chain {head} offered, {used} used")
        return used[0]

    def inflate(self, pfns: Sequence[int]) -> Used:
        """Give pages away, in one message."""
        return self.transact(INFLATE, [self.write_pfns(INFLATE, pfns)])

    def deflate(self, pfns: Sequence[int]) -> Used:
        """Take pages back, in one message."""
        return self.transact(DEFLATE, [self.write_pfns(DEFLATE, pfns)])

    def write_pfns(self, queue: int, pfns: Sequence[int]) -> Buffer:
        """Put a message's page numbers where the driver keeps them."""
        return self.write_pfns_at(queue, 0, pfns)

    def write_pfns_at(self, queue: int, offset: int, pfns: Sequence[int]) -> Buffer:
        """The same for one of several messages, that begins so many bytes after the first."""
        raw = np.array(pfns, "<u4").tobytes()
        self.ram.write(self.buffer_gpa(queue) + offset, raw)
        return Buffer(self.buffer_gpa(queue) + offset, len(raw))

    def put_stats(self, entries: Sequence[tuple[int, int]]) -> int:
        """Hand over a statistics buffer, which the device keeps; returns the head."""
        raw = b"".join(_STAT.pack(tag, value) for tag, value in entries)
        self.ram.write(self.buffer_gpa(STATS), raw)
        return self.offer(STATS, [Buffer(self.buffer_gpa(STATS), len(raw))])

    def say(self, word: int) -> Used:
        """Send a command on the hint queue."""
        self.ram.write(self.buffer_gpa(HINT), word.to_bytes(4, "little"))
        return self.transact(HINT, [Buffer(self.buffer_gpa(HINT), 4)])

    def hint(self, first_pfn: int, pages: int) -> Used:
        """Name a block of free pages on the hint queue."""
        block = Buffer(first_pfn * PAGE_BYTES, pages * PAGE_BYTES, is_writable=True)
        return self.transact(HINT, [block])

    def report(self, blocks: Sequence[tuple[int, int]]) -> Used:
        """Report free memory, as address and bytes of each block."""
        return self.transact(
            REPORTING, [Buffer(gpa, length, is_writable=True) for gpa, length in blocks]
        )

    def read_cmd_id(self) -> int:
        """What the device wants on the hint queue."""
        return int.from_bytes(self._read_config(CMD_ID_AT), "little")

    def write_poison(self, value: int) -> None:
        """Tell what freed pages hold."""
        self._write_config(POISON_AT, value)

    def read_num_pages(self) -> int:
        """The target, as the driver reads it."""
        return int.from_bytes(self._read_config(NUM_PAGES_AT), "little")

    def read_actual(self) -> int:
        """The driver's own last word on its size, as the device keeps it."""
        return int.from_bytes(self._read_config(ACTUAL_AT), "little")

    def write_actual(self, pages: int) -> None:
        """Tell the size of the balloon."""
        self._write_config(ACTUAL_AT, pages)

    def _write_config(self, offset: int, value: int) -> None:
        raw, style = value.to_bytes(4, "little"), self.config_style
        if style.is_whole:
            space = bytearray(self.front_end.get_config(0, WHOLE_BYTES, style.read_flags))
            space[offset : offset + 4] = raw
            self.front_end.set_config(0, bytes(space), style.write_flags)
            return
        at = 0
        for size in style.pieces:
            piece = raw[at : at + size]
            self.front_end.set_config(offset + at, piece, style.write_flags)
            at += size

    def _read_config(self, offset: int) -> bytes:
        style = self.config_style
        if style.is_whole:
            space = self.front_end.get_config(0, WHOLE_BYTES, style.read_flags)
            return space[offset : offset + 4]
        data = b""
        for size in style.pieces:
            data += self.front_end.get_config(offset + len(data), size, style.read_flags)
        return data


def table_of(ram: GuestRam) -> tuple[list[TableRegion], list[int]]:
    """What SET_MEM_TABLE says of this memory, and the descriptors it carries."""
    return [wire_region(region) for region in ram.regions], [ram.fd(one) for one in ram.regions]


def wire_region(region: RamRegion) -> TableRegion:
    """A region as it goes over the wire."""
    return TableRegion(region.gpa, region.size, region.uva, region.file_offset)
