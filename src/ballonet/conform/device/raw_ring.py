"""A split ring on which a driver can break every rule."""

from __future__ import annotations

from struct import Struct
from typing import Final

from ballonet.virtio.ring.split_driver import SplitDriverRing

__all__ = ["RawSplitRing"]

_DESCRIPTOR: Final = Struct("<QIHH")


class RawSplitRing(SplitDriverRing):
    """The ring of a driver that writes what it likes."""

    def write_descriptor(self, index: int, gpa: int, length: int, flags: int, follows: int) -> None:
        """Write one descriptor as it stands."""
        _DESCRIPTOR.pack_into(self._desc, 16 * index, gpa, length, flags, follows)

    def offer(self, head: int) -> None:
        """Make a head available, whatever it is."""
        self._avail16[2 + self._added % self.size] = head
        self._added = (self._added + 1) & 0xFFFF
        self._chains[head] = []
        self.publish()

    def jump(self, count: int) -> None:
        """Claim that so many more chains are available."""
        self._added = (self._added + count) & 0xFFFF
        self.publish()

    def forbid_calls(self) -> None:
        """Set the flag that asks for no calls; nothing else."""
        self._avail16[0] = 1

    @property
    def used_flags(self) -> int:
        """The device's flags."""
        return self._used16[0]

    @property
    def avail_event(self) -> int:
        """Where the device wants its next kick."""
        return self._used16[2 + 4 * self.size]

    @property
    def available(self) -> int:
        """Chains made available so far, modulo 2^16."""
        return self._added

    def table(self) -> bytes:
        """The descriptors as they stand."""
        return bytes(self._desc)
