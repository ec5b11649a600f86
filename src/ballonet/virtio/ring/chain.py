"""What a ring hands to a device, and what a device asks of a ring.

`DeviceRing` is the border behind which ring formats differ: the split and the packed ring stand
behind it, and nothing above it knows which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

__all__ = ["Chain", "DeviceRing", "GuestView", "Piece", "read_pieces"]

#: Guest-physical address and length in bytes of one descriptor's buffer; not yet checked.
Piece = tuple[int, int]


class GuestView(Protocol):
    """Guest memory by guest-physical address."""

    def view(self, gpa: int, length: int) -> memoryview:
        """A window on `length` bytes; the caller copies what it uses and keeps no reference.

        Raises: GuestMemoryError, unless the range lies wholly in one region.
        """
        ...


class Chain(NamedTuple):
    """One request of the driver, read once from the ring."""

    head: int  #: how the driver knows it: first descriptor (split) or buffer id (packed)
    readable: tuple[Piece, ...]
    writable: tuple[Piece, ...]
    is_cut: bool = False  #: it has more than CHAIN_MAX descriptors, and none of them was looked at

    @property
    def readable_bytes(self) -> int:
        """Length of everything the device may read."""
        return sum(length for _, length in self.readable)


class DeviceRing(Protocol):
    """The device's side of one virtqueue."""

    def pop(self) -> Chain | None:
        """The next available chain, or None. Raises: RingError."""
        ...

    def un_pop(self) -> None:
        """Make the chain popped last available again."""
        ...

    def push(self, head: int, length: int) -> None:
        """Note a chain as used, with `length` bytes written; the driver does not see it yet."""
        ...

    def publish(self) -> bool:
        """Show the driver all that was pushed; True if it wants a call."""
        ...

    def disable_kicks(self) -> None:
        """Ask the driver not to kick while the device is looking anyway."""
        ...

    def enable_kicks(self) -> bool:
        """Ask for kicks again; True if chains came in meanwhile. Raises: RingError."""
        ...

    @property
    def base(self) -> int:
        """Where another device would have to go on, as vhost-user's vring base."""
        ...

    def release(self) -> None:
        """Give up every reference to guest memory; the ring is unusable afterwards."""
        ...


def read_pieces(memory: GuestView, pieces: Sequence[Piece]) -> bytes:
    """Copy pieces out of guest memory, joined: framing is the driver's choice [VIRTIO 1.4 2.7.4].

    Raises: GuestMemoryError.
    """
    if len(pieces) == 1:  # as all drivers do
        return bytes(memory.view(*pieces[0]))
    return b"".join(bytes(memory.view(gpa, length)) for gpa, length in pieces)
