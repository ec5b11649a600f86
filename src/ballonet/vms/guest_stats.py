"""One sample of a guest's statistics, as QMP's `guest-stats` has it.

The values are a guest's word: unset ones are absent, and nothing is assumed of the others.
Units: bytes and counts by `virtio.stats.STATS`; seconds since 1970.
Source: QEMU docs/interop/virtio-balloon-stats.rst.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ballonet.virtio.stats import STATS, UNSET
from ballonet.vms.reply import integer, member

__all__ = ["GuestStats", "parse_guest_stats"]

_COMMAND: Final = "qom-get guest-stats"
#: Far beyond any clock, and still a time of day that can be shown.
_TIME_END_S: Final = 1 << 40
#: Statistics so young show a driver that is there now, if nobody asks for them more often.
_YOUNG_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class GuestStats:
    """One answer of the guest's driver."""

    last_update_s: int | None  #: when it came; None: never
    values: Mapping[str, int]  #: by StatRow.name; only what the driver sent

    @property
    def available_bytes(self) -> int | None:
        """What the guest could use without swapping, as far as it tells.

        A driver that does not send it (Windows) is believed its free memory and its caches.
        """
        if "avail" in self.values:
            return self.values["avail"]
        if "memfree" in self.values:
            return self.values["memfree"] + self.values.get("caches", 0)
        return None

    @property
    def total_bytes(self) -> int | None:
        """All the memory that the guest's kernel manages; with most drivers less the balloon."""
        return self.values.get("memtot")

    def was_heard(self, wall_s: float, interval_s: int) -> bool | None:
        """A driver has answered a moment ago; None: it was not asked, or does not answer."""
        young_s = max(_YOUNG_S, 3.0 * interval_s)
        if self.last_update_s is not None and abs(wall_s - self.last_update_s) <= young_s:
            return True
        return None


def parse_guest_stats(reply: object) -> GuestStats:
    """Read a reply. Raises: MonitorError, if it is something else."""
    sent = member(reply, "stats", dict, _COMMAND)
    last_update_s = integer(reply, "last-update", _COMMAND)
    values = {}
    for row in STATS:
        if sent.get(row.qemu_key) is not None:  # a host of ours says null
            value = integer(sent, row.qemu_key, _COMMAND)
            # 2^64 - 1 is QEMU's word for unset, -1 is what its document says.
            if 0 <= value < UNSET:
                values[row.name] = value
    return GuestStats(last_update_s if 0 < last_update_s < _TIME_END_S else None, values)
