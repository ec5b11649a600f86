"""What a ring gives a driver, whichever format it has.

The driver's side of what chain.py describes for the device.  Drivers of balloons need no indirect
tables: the longest chain has 32 buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ballonet.virtio.ring.chain import Piece

__all__ = ["DriverRing", "RingPlace", "RingState", "Used"]


class RingPlace(NamedTuple):
    """Guest-physical addresses of the three areas; of a packed ring the last two are its events."""

    desc: int
    avail: int
    used: int


class Used(NamedTuple):
    """A chain that has come back."""

    head: int
    length: int  #: bytes the device says it wrote


@dataclass(frozen=True, slots=True)
class RingState:
    """What a driver knows of its ring and does not read from it, with everything published.

    `free` in the order in which entries will be taken, the last first.  `chains` are those under
    way: of a split ring the entries of each, the head first; of a packed ring its id and its slots.
    Positions count as the format does: modulo 2^16, or two laps of a packed ring.
    """

    free: tuple[int, ...]
    chains: tuple[tuple[int, ...], ...]
    next_position: int  #: where the next chain is added
    seen_position: int  #: up to where used chains were collected
    wants_calls: bool


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

    def snapshot(self) -> RingState:
        """What another driver needs to go on with this ring. Raises: UsageError."""
        ...

    def restore(self, state: RingState) -> None:
        """Go on with a ring in memory that came along with its state.

        Raises: RingError, if the state contradicts itself or the memory.
        """
        ...

    def release(self) -> None:
        """Let go of the memory."""
        ...
