"""The way from a driver to its device: what PCI, MMIO and vhost-user have in common."""

from __future__ import annotations

from typing import Protocol

from ballonet.virtio.ring.driver import DriverRing

__all__ = ["Transport"]


class Transport(Protocol):
    """One device; every method returns when the device has been told."""

    @property
    def used_align(self) -> int:
        """What the used ring's address must be a multiple of: 4, or 4096 of a legacy device."""
        ...

    def reset(self) -> None:
        """Let the device forget its driver; its rings are the driver's again."""
        ...

    def offered(self) -> int:
        """Feature bits of the device."""
        ...

    def accept(self, features: int) -> None:
        """Settle on features. Raises: GuestError, if the device refuses them."""
        ...

    def queue_size(self, queue: int) -> int:
        """Entries the ring of a queue should have; 0: the device has no such queue."""
        ...

    def set_queue(self, queue: int, ring: DriverRing) -> None:
        """Tell where the ring of a queue lies."""
        ...

    def driver_ok(self) -> None:
        """Let the device begin."""
        ...

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the device's configuration space."""
        ...

    def write_config(self, offset: int, data: bytes) -> None:
        """Write the device's configuration space."""
        ...

    def kick(self, queue: int) -> None:
        """Tell the device of new chains."""
        ...
