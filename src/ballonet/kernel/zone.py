"""A zone: a range of frames with an allocator and watermarks.

Source: Linux mm/page_alloc.c calculate_min_free_kbytes, __setup_per_zone_wmarks.
"""

from __future__ import annotations

from math import isqrt
from typing import Final

from ballonet.kernel.buddy import Buddy

__all__ = ["DMA32_END_BYTES", "Zone", "set_watermarks"]

#: What 32-bit devices can reach ends here.
DMA32_END_BYTES: Final = 1 << 32
_MIN_FREE_KIB_MIN: Final = 128
_MIN_FREE_KIB_MAX: Final = 262_144
_SCALE_FACTOR: Final = 10  # watermark_scale_factor, in ten-thousandths of the zone


class Zone:
    """Units: frames."""

    def __init__(self, name: str, start: int, end: int) -> None:
        self.name: Final = name
        self.buddy: Final = Buddy(start, end)
        self.managed_frames = 0
        self.min = self.low = self.high = 0

    @property
    def free_frames(self) -> int:
        """Frames nobody uses."""
        return self.buddy.free_frames

    def holds(self, frame: int) -> bool:
        """The frame lies in this zone."""
        return self.buddy.start <= frame < self.buddy.end


def set_watermarks(zones: list[Zone], page_bytes: int) -> None:
    """Set min, low and high of each zone from the memory of all."""
    managed = sum(zone.managed_frames for zone in zones)
    kib = isqrt(16 * (managed * page_bytes >> 10))
    min_frames = (min(max(kib, _MIN_FREE_KIB_MIN), _MIN_FREE_KIB_MAX) << 10) // page_bytes
    for zone in zones:
        zone.min = min_frames * zone.managed_frames // max(1, managed)
        step = max(zone.min // 4, zone.managed_frames * _SCALE_FACTOR // 10_000)
        zone.low, zone.high = zone.min + step, zone.min + 2 * step
