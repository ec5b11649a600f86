"""Both ring formats for one test: the peer's half, and the device's half over the same memory."""

from __future__ import annotations

from enum import Enum

from tests.support.driver_ring import DriverRing
from tests.support.guest_memory import GuestRam
from tests.support.packed_driver_ring import PackedDriverRing

from ballonet.virtio.ring.chain import DeviceRing, GuestView
from ballonet.virtio.ring.notify import Fence
from ballonet.virtio.ring.packed import PackedAreas, PackedRing, packed_area_bytes
from ballonet.virtio.ring.split import SplitAreas, SplitRing, split_area_bytes

AnyDriverRing = DriverRing | PackedDriverRing


class RingFormat(Enum):
    """How a queue is laid out."""

    SPLIT = "split"
    PACKED = "packed"

    def __repr__(self) -> str:
        return self.value

    def drive(self, ram: GuestRam, gpa: int, size: int, *, event_idx: bool) -> AnyDriverRing:
        """A new ring, driver's half."""
        made = DriverRing if self is RingFormat.SPLIT else PackedDriverRing
        return made(ram, gpa, size, event_idx=event_idx)


def serve(driver: AnyDriverRing, memory: GuestView, fence: Fence, *, base: int = 0) -> DeviceRing:
    """The device's half; base 0 is the start in both formats."""
    place, event_idx = driver.layout, driver.event_idx
    if isinstance(driver, DriverRing):
        desc, avail, used = split_area_bytes(driver.size)
        split = SplitAreas(
            memory.view(place.desc, desc),
            memory.view(place.avail, avail),
            memory.view(place.used, used),
        )
        return SplitRing(split, memory, fence, base=base, event_idx=event_idx, indirect=True)
    desc, driver_event, device_event = packed_area_bytes(driver.size)
    packed = PackedAreas(
        memory.view(place.desc, desc),
        memory.view(place.avail, driver_event),
        memory.view(place.used, device_event),
    )
    return PackedRing(packed, memory, fence, base=base, event_idx=event_idx, indirect=True)
