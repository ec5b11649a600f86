"""What the ways to a virtio device of QEMU have in common.

A subclass knows the registers; here are the order of things and the interrupt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from ballonet.errors import GuestError
from ballonet.qtest.client import QtestClient
from ballonet.virtio.ring.driver import DriverRing

__all__ = ["ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK", "NEEDS_RESET", "QtestTransport"]

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64
_QUEUE_BIT: Final = 1
_CONFIG_BIT: Final = 2


class QtestTransport(ABC):
    """A device behind registers; a `Transport`."""

    is_legacy = False
    used_align = 4

    def __init__(self, client: QtestClient) -> None:
        self._client = client

    def reset(self) -> None:
        """Let the device forget its driver."""
        self.status = 0

    def offered(self) -> int:
        """Feature bits of the device."""
        self.status = ACKNOWLEDGE | DRIVER
        return self._device_features(0) | self._device_features(1) << 32

    def accept(self, features: int) -> None:
        """Settle on features. Raises: GuestError."""
        self._set_driver_features(0, features & 0xFFFF_FFFF)
        if self.is_legacy:
            return
        self._set_driver_features(1, features >> 32)
        self.status |= FEATURES_OK
        if not self.status & FEATURES_OK:
            raise GuestError(f"the device does not accept features {features:#x}")

    def driver_ok(self) -> None:
        """Let the device begin."""
        self.status |= DRIVER_OK

    def take_interrupt(self) -> tuple[bool, bool]:
        """Acknowledge the interrupt; True for used queues, True for a changed configuration."""
        isr = self._take_isr()
        return bool(isr & _QUEUE_BIT), bool(isr & _CONFIG_BIT)

    @property
    @abstractmethod
    def status(self) -> int:
        """The device's status register."""

    @status.setter
    @abstractmethod
    def status(self, value: int) -> None: ...

    @abstractmethod
    def queue_size(self, queue: int) -> int:
        """Entries the ring of a queue should have; 0: there is none."""

    @abstractmethod
    def set_queue(self, queue: int, ring: DriverRing) -> None:
        """Tell where a ring lies."""

    @abstractmethod
    def read_config(self, offset: int, length: int) -> bytes:
        """Read the configuration space."""

    @abstractmethod
    def write_config(self, offset: int, data: bytes) -> None:
        """Write the configuration space."""

    @abstractmethod
    def kick(self, queue: int) -> None:
        """Tell the device of new chains."""

    @abstractmethod
    def _device_features(self, word: int) -> int: ...

    @abstractmethod
    def _set_driver_features(self, word: int, features: int) -> None: ...

    @abstractmethod
    def _take_isr(self) -> int: ...
