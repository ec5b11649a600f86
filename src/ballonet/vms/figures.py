"""What a device and a driver have told, put into a look at their machine.

Units: bytes, seconds.
"""

from __future__ import annotations

import time
from dataclasses import replace

from ballonet.vms.device_info import DeviceInfo
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.observation import HostMemory, Observation, aged_statistics

__all__ = ["with_device", "with_statistics"]


def with_device(look: Observation, info: DeviceInfo) -> Observation:
    """A look with what our own device tells of one moment."""
    ram_bytes, target_bytes = info.ram_bytes, info.target_bytes
    wanted_bytes = None
    if ram_bytes is not None and target_bytes is not None:
        wanted_bytes = max(0, ram_bytes - target_bytes)
    unmeasured = HostMemory(None, "the device does not tell")
    return replace(
        look,
        memory_bytes=ram_bytes,
        target_bytes=wanted_bytes,
        actual_bytes=info.logical_bytes,
        host=unmeasured if info.host_bytes is None else HostMemory(info.host_bytes),
        has_driver=info.has_driver,
        problem=info.problem,
        device=info,
    )


def with_statistics(look: Observation, sample: GuestStats, interval_s: int) -> Observation:
    """A look with a sample, as old as it is now, and how often the driver is asked for one."""
    return replace(
        look,
        statistics=aged_statistics(sample, time.time()),
        stats_last_update_s=sample.last_update_s,
        poll_interval_s=interval_s,
    )
