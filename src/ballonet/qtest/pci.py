"""Virtio over PCI: the modern way by capabilities, and the legacy way by I/O ports.

No firmware runs, so the device's addresses are given out here.
Source: VIRTIO 1.4 4.1.4, 4.1.4.10 (legacy).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ballonet.errors import GuestError
from ballonet.qtest.client import QtestClient
from ballonet.qtest.transport import QtestTransport
from ballonet.virtio.ring.driver import DriverRing

__all__ = ["LegacyPciTransport", "ModernPciTransport", "PciDevice", "find_pci_balloon"]

_VIRTIO: Final = 0x1AF4
_BALLOON_IDS: Final = (0x1002, 0x1045)  # transitional, modern
_ADDRESS_PORT, _DATA_PORT = 0xCF8, 0xCFC
_COMMAND, _BAR0, _CAPABILITIES = 0x04, 0x10, 0x34
_IO_MEMORY_MASTER: Final = 7
_VENDOR_CAPABILITY: Final = 0x09
#: Where the device's memory and ports are put.
_MEMORY_AT, _PORTS_AT = 0xE000_0000, 0xC000
_COMMON, _NOTIFY, _ISR, _DEVICE = 1, 2, 3, 4

_FEATURE_SELECT, _FEATURE, _DRIVER_SELECT, _DRIVER = 0, 4, 8, 12
_STATUS, _QUEUE_SELECT, _QUEUE_SIZE, _QUEUE_ENABLE = 20, 22, 24, 28
_QUEUE_NOTIFY_OFF, _QUEUE_DESC, _QUEUE_DRIVER, _QUEUE_DEVICE = 30, 32, 40, 48

_L_FEATURES, _L_DRIVER_FEATURES, _L_QUEUE_PFN, _L_QUEUE_SIZE = 0, 4, 8, 12
_L_QUEUE_SELECT, _L_QUEUE_NOTIFY, _L_STATUS, _L_ISR, _L_CONFIG = 14, 16, 18, 19, 20


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One function of bus 0."""

    client: QtestClient
    slot: int

    def read(self, offset: int) -> int:
        """Four bytes of its configuration space."""
        self.client.write("outl", _ADDRESS_PORT, 1 << 31 | self.slot << 11 | offset & 0xFC)
        return self.client.read("inl", _DATA_PORT)

    def write(self, offset: int, value: int) -> None:
        """Write four bytes of its configuration space."""
        self.client.write("outl", _ADDRESS_PORT, 1 << 31 | self.slot << 11 | offset & 0xFC)
        self.client.write("outl", _DATA_PORT, value)

    def read_byte(self, offset: int) -> int:
        """One byte of its configuration space."""
        return self.read(offset) >> 8 * (offset & 3) & 0xFF

    def enable(self) -> None:
        """Put its ports and memory where nothing else is, and let it work."""
        memory, ports, bar = _MEMORY_AT, _PORTS_AT, 0
        while bar < 6:
            register = _BAR0 + 4 * bar
            kind = self.read(register) & 7
            if kind & 1:
                self.write(register, ports)
            else:
                self.write(register, memory)
                memory += 1 << 20
                if kind & 4:
                    bar += 1
                    self.write(register + 4, 0)
            bar += 1
        self.write(_COMMAND, _IO_MEMORY_MASTER)

    def bar(self, number: int) -> int:
        """Where a BAR was put: an I/O port or an address."""
        value = self.read(_BAR0 + 4 * number)
        return value & ~3 if value & 1 else value & ~0xF


def find_pci_balloon(client: QtestClient) -> PciDevice:
    """The balloon on bus 0, enabled. Raises: GuestError."""
    for slot in range(32):
        device = PciDevice(client, slot)
        ids = device.read(0)
        if ids & 0xFFFF == _VIRTIO and ids >> 16 in _BALLOON_IDS:
            device.enable()
            return device
    raise GuestError("QEMU has no balloon on PCI")


class ModernPciTransport(QtestTransport):
    """A balloon by its capabilities."""

    def __init__(self, device: PciDevice) -> None:
        super().__init__(device.client)
        self._areas: dict[int, int] = {}
        self._notify_step = 0
        self._notify_at: dict[int, int] = {}
        at = device.read_byte(_CAPABILITIES)
        while at:
            if device.read_byte(at) == _VENDOR_CAPABILITY:
                self._take_capability(device, at)
            at = device.read_byte(at + 1)
        if _COMMON not in self._areas:
            raise GuestError("QEMU's balloon has no modern interface")

    @property
    def status(self) -> int:
        """The device's status register."""
        return self._client.read("readb", self._areas[_COMMON] + _STATUS)

    @status.setter
    def status(self, value: int) -> None:
        self._client.write("writeb", self._areas[_COMMON] + _STATUS, value)

    def queue_size(self, queue: int) -> int:
        """Entries the ring of a queue should have."""
        self._write("writew", _QUEUE_SELECT, queue)
        return self._read("readw", _QUEUE_SIZE)

    def set_queue(self, queue: int, ring: DriverRing) -> None:
        """Tell where a ring lies."""
        self._write("writew", _QUEUE_SELECT, queue)
        self._write("writew", _QUEUE_SIZE, ring.size)
        places = zip((_QUEUE_DESC, _QUEUE_DRIVER, _QUEUE_DEVICE), ring.place, strict=True)
        for register, gpa in places:
            self._write("writel", register, gpa & 0xFFFF_FFFF)
            self._write("writel", register + 4, gpa >> 32)
        offset = self._read("readw", _QUEUE_NOTIFY_OFF)
        self._notify_at[queue] = self._areas[_NOTIFY] + offset * self._notify_step
        self._write("writew", _QUEUE_ENABLE, 1)

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the configuration space, in words where that is possible."""
        at, client = self._areas[_DEVICE] + offset, self._client
        if length == 4:
            return client.read("readl", at).to_bytes(4, "little")
        return bytes(client.read("readb", at + i) for i in range(length))

    def write_config(self, offset: int, data: bytes) -> None:
        """Write the configuration space, in words."""
        at = self._areas[_DEVICE] + offset
        for i in range(0, len(data), 4):
            self._client.write("writel", at + i, int.from_bytes(data[i : i + 4], "little"))

    def kick(self, queue: int) -> None:
        """Tell the device of new chains."""
        self._client.write("writew", self._notify_at[queue], queue)

    def _device_features(self, word: int) -> int:
        self._write("writel", _FEATURE_SELECT, word)
        return self._read("readl", _FEATURE)

    def _set_driver_features(self, word: int, features: int) -> None:
        self._write("writel", _DRIVER_SELECT, word)
        self._write("writel", _DRIVER, features)

    def _take_isr(self) -> int:
        return self._client.read("readb", self._areas[_ISR])

    def _take_capability(self, device: PciDevice, at: int) -> None:
        kind, bar = device.read_byte(at + 3), device.read_byte(at + 4)
        if kind in (_COMMON, _NOTIFY, _ISR, _DEVICE) and kind not in self._areas:
            self._areas[kind] = device.bar(bar) + device.read(at + 8)
            if kind == _NOTIFY:
                self._notify_step = device.read(at + 16)

    def _read(self, verb: str, register: int) -> int:
        return self._client.read(verb, self._areas[_COMMON] + register)

    def _write(self, verb: str, register: int, value: int) -> None:
        self._client.write(verb, self._areas[_COMMON] + register, value)


class LegacyPciTransport(QtestTransport):
    """A transitional or legacy balloon by its ports."""

    is_legacy = True
    used_align = 4096

    def __init__(self, device: PciDevice) -> None:
        super().__init__(device.client)
        self._ports = device.bar(0)
        if not device.read(_BAR0) & 1:
            raise GuestError("QEMU's balloon has no legacy interface")

    @property
    def status(self) -> int:
        """The device's status register."""
        return self._client.read("inb", self._ports + _L_STATUS)

    @status.setter
    def status(self, value: int) -> None:
        self._client.write("outb", self._ports + _L_STATUS, value)

    def queue_size(self, queue: int) -> int:
        """Entries the ring of a queue has; not the driver's to choose."""
        self._client.write("outw", self._ports + _L_QUEUE_SELECT, queue)
        return self._client.read("inw", self._ports + _L_QUEUE_SIZE)

    def set_queue(self, queue: int, ring: DriverRing) -> None:
        """Tell the page a ring begins at."""
        self._client.write("outw", self._ports + _L_QUEUE_SELECT, queue)
        self._client.write("outl", self._ports + _L_QUEUE_PFN, ring.place.desc >> 12)

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the configuration space, in words where that is possible."""
        at = self._ports + _L_CONFIG + offset
        if length == 4:
            return self._client.read("inl", at).to_bytes(4, "little")
        return bytes(self._client.read("inb", at + i) for i in range(length))

    def write_config(self, offset: int, data: bytes) -> None:
        """Write the configuration space, in words."""
        at = self._ports + _L_CONFIG + offset
        for i in range(0, len(data), 4):
            self._client.write("outl", at + i, int.from_bytes(data[i : i + 4], "little"))

    def kick(self, queue: int) -> None:
        """Tell the device of new chains."""
        self._client.write("outw", self._ports + _L_QUEUE_NOTIFY, queue)

    def _device_features(self, word: int) -> int:
        return 0 if word else self._client.read("inl", self._ports + _L_FEATURES)

    def _set_driver_features(self, word: int, features: int) -> None:
        if not word:
            self._client.write("outl", self._ports + _L_DRIVER_FEATURES, features)

    def _take_isr(self) -> int:
        return self._client.read("inb", self._ports + _L_ISR)
