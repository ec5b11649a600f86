"""Virtio over MMIO, version 2, as QEMU's microvm has it.

Source: VIRTIO 1.4 4.2.2.
"""

from __future__ import annotations

from typing import Final

from ballonet.errors import GuestError
from ballonet.qtest.client import QtestClient
from ballonet.qtest.transport import QtestTransport
from ballonet.virtio.ring.driver import DriverRing

__all__ = ["MmioTransport", "find_mmio_balloon"]

_MAGIC: Final = 0x74726976
_BALLOON: Final = 5
#: Where QEMU's microvm puts its transports.
_FIRST, _STEP, _COUNT = 0xFEB0_0000, 0x200, 8

_VERSION, _DEVICE_ID = 0x04, 0x08
_DEVICE_FEATURES, _DEVICE_FEATURES_SEL = 0x10, 0x14
_DRIVER_FEATURES, _DRIVER_FEATURES_SEL = 0x20, 0x24
_QUEUE_SEL, _QUEUE_NUM_MAX, _QUEUE_NUM, _QUEUE_READY = 0x30, 0x34, 0x38, 0x44
_QUEUE_NOTIFY, _INTERRUPT_STATUS, _INTERRUPT_ACK, _STATUS = 0x50, 0x60, 0x64, 0x70
_QUEUE_DESC, _QUEUE_DRIVER, _QUEUE_DEVICE = 0x80, 0x90, 0xA0
_CONFIG: Final = 0x100


def find_mmio_balloon(client: QtestClient) -> int:
    """Address of the balloon's registers. Raises: GuestError."""
    for base in range(_FIRST, _FIRST + _STEP * _COUNT, _STEP):
        if (
            client.read("readl", base) == _MAGIC
            and client.read("readl", base + _DEVICE_ID) == _BALLOON
        ):
            return base
    raise GuestError("QEMU has no balloon on MMIO")


class MmioTransport(QtestTransport):
    """A balloon at an address."""

    def __init__(self, client: QtestClient, base: int) -> None:
        super().__init__(client)
        self._base = base
        version = self._read(_VERSION)
        if version != 2:
            raise GuestError(f"the device speaks version {version} of MMIO, not 2")

    @property
    def status(self) -> int:
        """The device's status register."""
        return self._read(_STATUS)

    @status.setter
    def status(self, value: int) -> None:
        self._write(_STATUS, value)

    def queue_size(self, queue: int) -> int:
        """Entries the ring of a queue should have."""
        self._write(_QUEUE_SEL, queue)
        return self._read(_QUEUE_NUM_MAX)

    def set_queue(self, queue: int, ring: DriverRing) -> None:
        """Tell where a ring lies."""
        self._write(_QUEUE_SEL, queue)
        self._write(_QUEUE_NUM, ring.size)
        places = zip((_QUEUE_DESC, _QUEUE_DRIVER, _QUEUE_DEVICE), ring.place, strict=True)
        for register, gpa in places:
            self._write(register, gpa & 0xFFFF_FFFF)
            self._write(register + 4, gpa >> 32)
        self._write(_QUEUE_READY, 1)

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the configuration space."""
        at = self._base + _CONFIG + offset
        return (
            bytes(self._client.read("readb", at + i) for i in range(length))
            if (length % 4 or offset % 4)
            else b"".join(
                self._client.read("readl", at + i).to_bytes(4, "little")
                for i in range(0, length, 4)
            )
        )

    def write_config(self, offset: int, data: bytes) -> None:
        """Write the configuration space, in words."""
        for i in range(0, len(data), 4):
            word = int.from_bytes(data[i : i + 4], "little")
            self._client.write("writel", self._base + _CONFIG + offset + i, word)

    def kick(self, queue: int) -> None:
        """Tell the device of new chains."""
        self._write(_QUEUE_NOTIFY, queue)

    def _device_features(self, word: int) -> int:
        self._write(_DEVICE_FEATURES_SEL, word)
        return self._read(_DEVICE_FEATURES)

    def _set_driver_features(self, word: int, features: int) -> None:
        self._write(_DRIVER_FEATURES_SEL, word)
        self._write(_DRIVER_FEATURES, features)

    def _take_isr(self) -> int:
        isr = self._read(_INTERRUPT_STATUS)
        if isr:
            self._write(_INTERRUPT_ACK, isr)
        return isr

    def _read(self, register: int) -> int:
        return self._client.read("readl", self._base + register)

    def _write(self, register: int, value: int) -> None:
        self._client.write("writel", self._base + register, value)
