"""Configuration space of the balloon: four little-endian 32-bit fields.

    offset  field                  who writes  exists with
    0       num_pages              device      always
    4       actual                 driver      always
    8       free_page_hint_cmd_id  device      FREE_PAGE_HINT
    12      poison_val             driver      PAGE_POISON

Offsets never shift; an absent field only shortens the readable length.  Little-endian for legacy
drivers too.  Not here: who may write what (device/config_space.py).
Units: num_pages and actual count 4 KiB balloon pages.  Source: VIRTIO 1.4 5.5.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Self

from ballonet.virtio.features import Feature

__all__ = ["ACTUAL", "CONFIG_BYTES", "NUM_PAGES", "POISON_VAL", "BalloonConfig", "config_length"]

CONFIG_BYTES: Final = 16
NUM_PAGES: Final = slice(0, 4)
ACTUAL: Final = slice(4, 8)
POISON_VAL: Final = slice(12, 16)


@dataclass(frozen=True, slots=True)
class BalloonConfig:
    """The whole space, 16 bytes."""

    num_pages: int
    actual: int
    free_page_hint_cmd_id: int
    poison_val: int
    LAYOUT: ClassVar[Struct] = Struct("<IIII")

    def pack(self) -> bytes:
        """The 16 bytes a driver reads."""
        return self.LAYOUT.pack(
            self.num_pages, self.actual, self.free_page_hint_cmd_id, self.poison_val
        )

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read 16 bytes; `struct.error` for any other length is our own bug."""
        return cls(*cls.LAYOUT.unpack(raw))


def config_length(offered: int) -> int:
    """Bytes of the space that exist: by what was offered, not negotiated, as QEMU decides it."""
    if offered & Feature.PAGE_POISON:
        return 16
    return 12 if offered & Feature.FREE_PAGE_HINT else 8
