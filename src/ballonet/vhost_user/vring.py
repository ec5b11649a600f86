"""One queue as the front-end describes it, and the ring made from the description.

Size, base and addresses may come before the features that say which format they describe, so
each is checked twice: when it comes, as far as can be told then, and when the ring is made.
Source: QEMU docs/interop/vhost-user.rst "Ring states"; VIRTIO 1.4 2.7, 2.8 for alignment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

from ballonet.balloon.memory import BalloonMemory
from ballonet.errors import GuestMemoryError, RingError, SessionError
from ballonet.memory.regions import Region
from ballonet.vhost_user.messages import VringAddresses
from ballonet.virtio.features import Feature
from ballonet.virtio.ring.chain import DeviceRing
from ballonet.virtio.ring.descriptors import QUEUE_SIZE_MAX
from ballonet.virtio.ring.notify import Fence
from ballonet.virtio.ring.packed import (
    PackedAreas,
    PackedRing,
    check_packed_base,
    packed_area_bytes,
)
from ballonet.virtio.ring.split import SplitAreas, SplitRing, split_area_bytes

__all__ = [
    "FRESH_BASES",
    "FdKind",
    "SessionMemory",
    "Vring",
    "areas_to_log",
    "check_addresses",
    "check_base",
    "check_num",
    "make_ring",
]

#: Where a ring begins that no driver has used: split; packed, with both wrap counters 1.
FRESH_BASES: Final = (0, 0x8000_8000)

_LOG = 1  # flag of the addresses: writes to the used ring are to be logged


class FdKind(Enum):
    """What a queue's descriptor is for."""

    KICK = auto()  #: driver tells device
    CALL = auto()  #: device tells driver
    ERR = auto()  #: device tells front-end that the ring is broken


class SessionMemory(BalloonMemory, Protocol):
    """Guest memory, by the front-end's own addresses too, and as the front-end changes it."""

    def replace(self, regions: Sequence[Region], fds: Sequence[int]) -> None:
        """Map these regions in place of all others. Raises: MapError, SessionError."""
        ...

    def add(self, region: Region, fd: int) -> None:
        """Map one more region. Raises: MapError, SessionError."""
        ...

    def remove(self, region: Region) -> None:
        """Unmap the region of the same addresses and size. Raises: SessionError."""
        ...

    def view_uva(self, uva: int, length: int) -> memoryview:
        """A window on guest memory. Raises: GuestMemoryError."""
        ...


@dataclass(slots=True)
class Vring:
    """What the front-end has said about one queue."""

    num: int = 0
    base: int = 0
    addresses: VringAddresses | None = None
    has_kick: bool = False
    has_call: bool = False
    enabled: bool = False


def check_num(request: str, num: int, *, packed: bool) -> None:
    """Raises: SessionError, unless a ring of this format can have so many entries."""
    if not 0 < num <= QUEUE_SIZE_MAX:
        raise SessionError(request, f"queue size {num} is not 1 to {QUEUE_SIZE_MAX}")
    if not packed and num & (num - 1):
        raise SessionError(request, f"queue size {num} is no power of two up to {QUEUE_SIZE_MAX}")


def check_base(request: str, base: int, *, packed: bool) -> None:
    """Raises: SessionError, if the base has more bits than this format."""
    if not packed and base > 0xFFFF:
        raise SessionError(request, f"base {base} is not a 16-bit index")


def check_addresses(request: str, addresses: VringAddresses, *, packed: bool) -> None:
    """Raises: SessionError, unless the areas are aligned as this format wants them."""
    driver_area = 4 if packed else 2
    if addresses.desc % 16 or addresses.avail % driver_area or addresses.used % 4:
        raise SessionError(request, f"ring {addresses.queue} is not aligned")


def make_ring(
    index: int, vring: Vring, memory: SessionMemory, negotiated: Feature, fence: Fence
) -> DeviceRing | None:
    """The ring, if enough is known to have one.

    Raises: SessionError, if it lies outside memory, or is none of the negotiated format.
    """
    if not (vring.has_kick and vring.num and vring.addresses and memory.table.regions):
        return None
    packed = Feature.RING_PACKED in negotiated
    name = f"queue {index}"
    check_num(name, vring.num, packed=packed)
    check_base(name, vring.base, packed=packed)
    check_addresses(name, vring.addresses, packed=packed)
    try:
        if packed:
            return _make_packed(vring, vring.addresses, memory, negotiated, fence)
        return _make_split(vring, vring.addresses, memory, negotiated, fence)
    except GuestMemoryError as error:
        raise SessionError(name, f"its ring is outside memory: {error}") from error
    except RingError as error:
        raise SessionError(name, str(error)) from error


def areas_to_log(
    vring: Vring, memory: SessionMemory, negotiated: Feature
) -> Iterator[tuple[int, int]]:
    """Guest-physical address and bytes of what a running ring writes, if it is to be logged.

    For a split ring that is the used ring, whose address comes with the message.  A packed ring is
    written in two places, for which the one address cannot do: they are translated.
    """
    addresses = vring.addresses
    if addresses is None or not addresses.flags & _LOG:
        return
    if Feature.RING_PACKED not in negotiated:
        yield addresses.log, split_area_bytes(vring.num)[2]
        return
    desc, _, device_event = packed_area_bytes(vring.num)
    for uva, length in ((addresses.desc, desc), (addresses.used, device_event)):
        index, offset = memory.table.find_uva(uva, length)
        yield memory.table.regions[index].gpa + offset, length


def _make_split(
    vring: Vring,
    addresses: VringAddresses,
    memory: SessionMemory,
    negotiated: Feature,
    fence: Fence,
) -> SplitRing:
    """Raises: GuestMemoryError."""
    desc, avail, used = split_area_bytes(vring.num)
    areas = SplitAreas(
        memory.view_uva(addresses.desc, desc),
        memory.view_uva(addresses.avail, avail),
        memory.view_uva(addresses.used, used),
    )
    return SplitRing(
        areas,
        memory,
        fence,
        base=vring.base,
        event_idx=Feature.EVENT_IDX in negotiated,
        indirect=Feature.INDIRECT_DESC in negotiated,
    )


def _make_packed(
    vring: Vring,
    addresses: VringAddresses,
    memory: SessionMemory,
    negotiated: Feature,
    fence: Fence,
) -> PackedRing:
    """Raises: GuestMemoryError, RingError."""
    check_packed_base(vring.base, vring.num)
    desc, driver_event, device_event = packed_area_bytes(vring.num)
    areas = PackedAreas(
        memory.view_uva(addresses.desc, desc),
        memory.view_uva(addresses.avail, driver_event),
        memory.view_uva(addresses.used, device_event),
    )
    return PackedRing(
        areas,
        memory,
        fence,
        base=vring.base,
        event_idx=Feature.EVENT_IDX in negotiated,
        indirect=Feature.INDIRECT_DESC in negotiated,
    )
