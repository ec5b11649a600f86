"""One queue as the front-end describes it, and the ring made from the description.

Source: QEMU docs/interop/vhost-user.rst "Ring states".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ballonet.device.balloon import BalloonMemory
from ballonet.errors import GuestMemoryError, SessionError
from ballonet.vhost_user.messages import VringAddresses
from ballonet.virtio.features import Feature
from ballonet.virtio.ring.notify import Fence
from ballonet.virtio.ring.split import SplitAreas, SplitRing, split_area_bytes

__all__ = ["SessionMemory", "Vring", "make_ring", "used_ring_to_log"]

_LOG = 1  # flag of the addresses: writes to the used ring are to be logged


class SessionMemory(BalloonMemory, Protocol):
    """Guest memory, by the front-end's own addresses too."""

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
    enabled: bool = False


def make_ring(
    index: int, vring: Vring, memory: SessionMemory, negotiated: Feature, fence: Fence
) -> SplitRing | None:
    """The ring, if enough is known to have one.

    Raises: SessionError, if it lies outside memory.
    """
    if not (vring.has_kick and vring.num and vring.addresses and memory.table.regions):
        return None
    desc, avail, used = split_area_bytes(vring.num)
    try:
        areas = SplitAreas(
            memory.view_uva(vring.addresses.desc, desc),
            memory.view_uva(vring.addresses.avail, avail),
            memory.view_uva(vring.addresses.used, used),
        )
    except GuestMemoryError as error:
        raise SessionError(f"queue {index}", f"its ring is outside memory: {error}") from error
    return SplitRing(
        areas,
        memory,
        fence,
        base=vring.base,
        event_idx=Feature.EVENT_IDX in negotiated,
        indirect=Feature.INDIRECT_DESC in negotiated,
    )


def used_ring_to_log(vring: Vring) -> tuple[int, int] | None:
    """Guest-physical address and bytes of the used ring, if the front-end wants it logged."""
    if vring.addresses is None or not vring.addresses.flags & _LOG:
        return None
    return vring.addresses.log, split_area_bytes(vring.num)[2]
