"""What the law is told: one round of looks, at the host and at every VM on it.

None is unknown.  Nothing here is checked: all of it may be a lie or a fault, see reading.py.
Units: bytes left to the guest (logical size), seconds, shares of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["HostSample", "Round", "VmSample"]


@dataclass(frozen=True, slots=True)
class VmSample:
    """One VM at one moment."""

    vm: str  #: who; nobody else on this host
    memory_bytes: int | None = None  #: all the guest's memory
    actual_bytes: int | None = None  #: what it keeps
    target_bytes: int | None = None  #: what it was asked to keep; most VMMs do not tell
    held_bytes: int | None = None  #: what the host holds for it, measured
    #: By virtio.stats.StatRow.name; also `refault`, pages, where somebody tells.
    statistics: Mapping[str, int] = field(default_factory=dict)
    #: Another one for each answer of the guest, such as its time; None: nobody tells them apart.
    statistics_id: float | None = None
    statistics_age_s: float | None = None
    stall_share: float | None = None  #: of the last 10 s that something waited for memory
    has_driver: bool | None = None
    deflates_on_oom: bool | None = None
    no_answer: str = ""  #: why it cannot be asked, if it cannot
    in_use: str = ""  #: what somebody else does with it: it is paused, it migrates


@dataclass(frozen=True, slots=True)
class HostSample:
    """The host at one moment; of a host that is a cgroup, its limit and what is left of it."""

    total_bytes: int | None = None
    available_bytes: int | None = None
    full_stall_share: float | None = None  #: of the last 10 s that everything waited for memory


@dataclass(frozen=True, slots=True)
class Round:
    """Everybody at one moment."""

    at_s: float  #: by a clock that never goes back
    host: HostSample
    vms: tuple[VmSample, ...]
    period_s: float = 1.0  #: until the next round
    lease_bytes: int = 0  #: promised to somebody who is not here yet
