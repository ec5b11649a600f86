"""One look at a virtual machine: everything that is known of one moment, and nothing that is not.

None is unknown: it was not told, or nobody here may know it.
Units: bytes of memory left to the guest (logical size), seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ballonet.vms.device_info import DeviceInfo
from ballonet.vms.guest_stats import GuestStats

__all__ = ["UNMEASURED", "Aged", "HostMemory", "MachineId", "Observation", "aged_statistics"]


@dataclass(frozen=True, slots=True)
class MachineId:
    """Who a machine is."""

    kind: str  #: of its VMM, or `ballonet`, where only the balloon's device is known
    name: str
    uri: str = ""  #: by which every verb reaches it; empty: it cannot be reached
    pid: int | None = None  #: of its VMM, or of the device


class HostMemory(NamedTuple):
    """What the host holds for a guest's memory, measured."""

    held_bytes: int | None = None
    why_not: str = ""  #: why that is not known


#: Nobody has measured.
UNMEASURED: Final = HostMemory()


class Aged(NamedTuple):
    """One statistic."""

    value: int
    age_s: float | None  #: since the guest has said it; None: that is not told


@dataclass(frozen=True, slots=True)
class Observation:
    """A machine at one moment."""

    who: MachineId
    at_s: float  #: the moment, by a clock that never goes back
    memory_bytes: int | None = None  #: all the guest's memory
    target_bytes: int | None = None  #: what it was asked to keep
    actual_bytes: int | None = None  #: what it keeps
    statistics: Mapping[str, Aged] = field(default_factory=dict)  #: by StatRow.name
    host: HostMemory = UNMEASURED
    paused: bool | None = None
    has_driver: bool | None = None
    poll_interval_s: int | None = None
    stats_last_update_s: int | None = None  #: time of day of the newest statistics
    problem: str | None = None  #: what has to be mended, in words
    device: DeviceInfo | None = None  #: what only ours tells

    @property
    def available_bytes(self) -> int | None:
        """What the guest could use without swapping, as far as it tells."""
        values = {name: one.value for name, one in self.statistics.items()}
        return GuestStats(None, values).available_bytes

    @property
    def stats_age_s(self) -> float | None:
        """Of the oldest statistic; None: there are none, or it is not told."""
        ages = [one.age_s for one in self.statistics.values() if one.age_s is not None]
        return max(ages, default=None)


def aged_statistics(sample: GuestStats, wall_s: float) -> dict[str, Aged]:
    """Every statistic of a sample, at a time of day; before its first sample a driver has none."""
    age_s = None if sample.last_update_s is None else max(0.0, wall_s - sample.last_update_s)
    return {name: Aged(value, age_s) for name, value in sample.values.items()}
