"""A look at a machine, or at this host, as the autopilot's law takes it.

Units: bytes left to the guest (logical size), seconds.
"""

from __future__ import annotations

from ballonet.autopilot.sample import HostSample, VmSample
from ballonet.vms.observation import Observation
from ballonet.vms.this_host import HostLook

__all__ = ["host_sample", "vm_sample"]


def vm_sample(
    vm: str,
    look: Observation,
    *,
    now_s: float,
    why_not: str = "",
    deflates_on_oom: bool | None = None,
) -> VmSample:
    """One machine; `vm` is its name on this host, `why_not` says why it was not reached.

    `now_s`: by the clock of the look, which may be an older one.  Of one that has no balloon, or
    was never reached, it is thought that it keeps all its memory.
    """
    age_s = look.stats_age_s
    return VmSample(
        vm,
        look.memory_bytes,
        look.memory_bytes if look.actual_bytes is None else look.actual_bytes,
        look.target_bytes,
        look.host.held_bytes,
        {name: one.value for name, one in look.statistics.items()},
        look.stats_last_update_s,
        None if age_s is None else age_s + max(0.0, now_s - look.at_s),
        has_driver=look.has_driver,
        deflates_on_oom=deflates_on_oom,
        no_answer=why_not,
        in_use="it is paused" if look.paused else "",
    )


def host_sample(look: HostLook) -> HostSample:
    """The host, by one look at it."""
    full = None if look.full is None else look.full.avg10
    return HostSample(look.total_bytes, look.available_bytes, full)
