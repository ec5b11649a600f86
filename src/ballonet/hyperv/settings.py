"""How both ends are set up."""

from __future__ import annotations

from dataclasses import dataclass

from ballonet.balloon.clock import NS_PER_S
from ballonet.hyperv.layouts import Version

__all__ = ["HypervDriverSettings", "HypervHostSettings"]


@dataclass(frozen=True, slots=True)
class HypervHostSettings:
    """What is fixed for the life of a host."""

    version_min: int = Version.V0_3
    version_max: int = Version.V2_0
    post_init_wait_ns: int = 50 * NS_PER_S
    status_report: bool = False  #: False: guests are asked for none, and what they send is lost
    #: Memory in the guest's table that it does not have when it starts, in bytes.
    extra_gpa: int = 0
    extra_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HypervDriverSettings:
    """What is fixed for the life of a driver."""

    pressure_report_delay: int = 45  #: status reports that are not sent, at first
    hibernation: bool = False  #: the guest may be hibernated: it gives nothing, and says nothing
