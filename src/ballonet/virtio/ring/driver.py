"""What a ring gives a driver, whichever format it has.

The driver's side of what chain.py describes for the device.  Drivers of balloons need no indirect
tables: the longest chain has 32 buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ballonet.virtio.ring.chain import Piece

__all__ = ["DriverRing", "RingPlace", "Used"]


class RingPlace(NamedTuple):
    """Guest-physical addresses of the three areas; of a packed ring the last two are its events."""

    desc: int
    avail: int
    used: int


class Used(NamedTuple):
    """A chain that has come back."""

    head: int
    length: int  #: bytes the device says it wrote


class DriverRing(Protocol):
    """The driver's side of one virtqueue."""

    @property
    def size(self) -> int:
        """Entries."""
        ...

    @property
    def place(self) -> RingPlace:
        """Where it lies."""
        ...

    @property
    def free_descriptors(self) -> int:
        """Entries that belong to no chain under way."""
        ...

    @property
    def base(self) -> int:
        """Where a device would have to go on, as vhost-user's vring base."""
        ...

    def add(self, readable: Sequence[Piece], writable: Sequence[Piece] = ()) -> int:
        """Make a chain, not yet visible; returns its head.

        Raises: RingError, if there are not enough free descriptors.
        """
        ...

    def publish(self) -> bool:
        """Show the device what was added; True if it wants a kick."""
        ...

    def collect(self) -> list[Used]:
        """Chains that came back since the last time.

        Raises: RingError, if the device returned what it was not given.
        """
        ...

    def disable_calls(self) -> None:
        """Ask the device not to tell of used chains."""
        ...

    def release(self) -> None:
        """Let go of the memory."""
        ...
