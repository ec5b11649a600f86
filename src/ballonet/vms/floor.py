"""How little memory a guest can be asked to keep without hurting it.

A balloon that takes what the guest uses makes its kernel swap, kill processes and, where nothing
can be killed, panic.  So a request to shrink has a floor: what the guest uses now and a margin
for what it does next.  Without statistics nothing is known of its use, and the floor is a share of
its memory.
Units: bytes left to the guest (logical size), which is more than what its kernel manages: a guest
of 512 MiB has a MemTotal of 469 MiB, so its use is counted from its logical size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ballonet.units import format_bytes

__all__ = ["Floor", "floor_of"]

#: A guest of 512 MiB used 72 MiB and could keep no less than 73 MiB, with 4 MiB available
#: (Debian's Linux 6.1 under QEMU 7.2): the driver takes everything but the kernel's own reserve.
#: What lies above is for the next allocations, for as long as nobody looks at the guest: 64 MiB,
#: a 25th of its memory where that is more, an 8th where it is less.
_MARGIN_BYTES: Final = 64 << 20
_MARGIN_SHARE: Final = 25
_MARGIN_SHARE_MOST: Final = 8
#: Of its memory, without statistics: what ESX leaves (Mem.CtlMaxPercent is 65).
_BLIND_PERCENT: Final = 35


@dataclass(frozen=True, slots=True)
class Floor:
    """The smallest size that is asked for, and why."""

    floor_bytes: int
    logical_bytes: int  #: when it was made
    used_bytes: int | None  #: None: the guest does not tell

    def __str__(self) -> str:
        if self.used_bytes is None:
            return (
                f"there are no fresh statistics of the guest, so it is asked to keep at least"
                f" {format_bytes(self.floor_bytes)}, {_BLIND_PERCENT} % of its memory"
            )
        margin = format_bytes(self.floor_bytes - self.used_bytes)
        return (
            f"of its {format_bytes(self.logical_bytes)} the guest uses"
            f" {format_bytes(self.used_bytes)}; with {margin} to spare it is asked to keep at least"
            f" {format_bytes(self.floor_bytes)}"
        )


def floor_of(ram_bytes: int, logical_bytes: int, available_bytes: int | None) -> Floor:
    """The floor of a guest with all `ram_bytes` that has `logical_bytes` of them now.

    `available_bytes` is the guest's word of the same time, None without one.  While the balloon
    moves, `logical_bytes` is to be the larger of before and after: the floor is then too high, not
    too low.
    """
    if available_bytes is None:
        return Floor(ram_bytes * _BLIND_PERCENT // 100, logical_bytes, None)
    used_bytes = max(0, logical_bytes - available_bytes)
    margin_bytes = min(
        max(_MARGIN_BYTES, ram_bytes // _MARGIN_SHARE), ram_bytes // _MARGIN_SHARE_MOST
    )
    return Floor(min(ram_bytes, used_bytes + margin_bytes), logical_bytes, used_bytes)
