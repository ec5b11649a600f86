"""What all VMs together may keep, and how much of it nobody has.

Theory of operation.  A VM may touch everything that it keeps, or was asked to keep, whichever is
more, without asking anybody; what of that the host does not hold for it yet is promised.  Free is
what the host has available, less its reserve, less everything that is promised: if all guests
touched all they have at once, the reserve would stand.  The budget is what is free and what the VMs
have.  A page that a guest touches or gives moves between available and held, so the budget does not
change by what the autopilot does: there is no loop through the host's free memory that could swing.

Of a VM that nobody can measure nothing is thought to be held: everything it keeps is promised.
With a fixed budget the same without measuring: every VM is thought to hold all that it keeps.
Units: bytes, seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from ballonet.autopilot.constants import Constants
from ballonet.autopilot.sample import HostSample
from ballonet.autopilot.settings import Settings

__all__ = ["Budget", "Holding", "HostRecord", "HostState", "budget_of", "follow_host"]


class HostState(Enum):
    """How much of the reserve is left; the value is the order."""

    GREEN = 0  #: all of it
    YELLOW = 1  #: three quarters
    ORANGE = 2  #: half
    RED = 3  #: less, or everything waits for memory


#: Parts of the reserve that have to be left for a state.
_LEFT: Final = ((HostState.GREEN, 1.0), (HostState.YELLOW, 0.75), (HostState.ORANGE, 0.5))


class Holding(NamedTuple):
    """One VM to the host."""

    actual_bytes: int
    target_bytes: int
    held_bytes: int | None

    @property
    def may_touch_bytes(self) -> int:
        """Without asking anybody."""
        return max(self.actual_bytes, self.target_bytes)

    @property
    def charged_bytes(self) -> int:
        """What counts against the budget."""
        return max(self.may_touch_bytes, self.held_bytes or 0)

    @property
    def promised_bytes(self) -> int:
        """What it may touch, and the host does not hold for it yet."""
        return max(0, self.may_touch_bytes - (self.held_bytes or 0))


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What is remembered of the host."""

    at_s: float
    state: HostState = HostState.GREEN
    better_since_s: float | None = None
    others_bytes: int | None = None  #: what the host uses besides the VMs
    others_growth_bytes: int = 0  #: the most of late between two looks


@dataclass(frozen=True, slots=True)
class Budget:
    """One moment."""

    budget_bytes: int  #: what all VMs may keep together
    free_bytes: int  #: of that nobody's; below 0: so much has to come back
    charged_bytes: int
    promised_bytes: int
    reserve_bytes: int
    available_bytes: int | None  #: of the host
    state: HostState


def budget_of(
    host: HostSample,
    record: HostRecord,
    holdings: Sequence[Holding],
    settings: Settings,
    lease_bytes: int,
) -> Budget:
    """The budget of this moment."""
    reserve_bytes = _reserve(host, record, settings)
    charged_bytes = sum(one.charged_bytes for one in holdings)
    promised_bytes = sum(one.promised_bytes for one in holdings)
    frees = []
    if host.available_bytes is not None:
        frees.append(host.available_bytes - reserve_bytes - promised_bytes - lease_bytes)
    if settings.budget_bytes is not None:
        frees.append(settings.budget_bytes - charged_bytes - lease_bytes)
    free_bytes = min(frees, default=0)  # nothing known: everybody stays as it is
    return Budget(
        free_bytes + charged_bytes,
        free_bytes,
        charged_bytes,
        promised_bytes,
        reserve_bytes,
        host.available_bytes,
        record.state,
    )


def follow_host(
    before: HostRecord | None,
    host: HostSample,
    holdings: Sequence[Holding],
    settings: Settings,
    now_s: float,
) -> HostRecord:
    """What is remembered after one more look."""
    if before is None:
        before = HostRecord(now_s)
    constants = settings.constants
    others_bytes, growth_bytes = None, before.others_growth_bytes
    if host.total_bytes is not None and host.available_bytes is not None:
        held_bytes = sum(one.held_bytes or 0 for one in holdings)
        others_bytes = host.total_bytes - host.available_bytes - held_bytes
        fading = math.exp(-max(0.0, now_s - before.at_s) / constants.others_growth_decay_s)
        growth_bytes = int(growth_bytes * fading)
        if before.others_bytes is not None:
            growth_bytes = max(growth_bytes, others_bytes - before.others_bytes)
    reserve_bytes = _own_reserve(host, settings)
    state, better_since_s = _next_state(before, host, reserve_bytes, now_s, constants)
    return HostRecord(now_s, state, better_since_s, others_bytes, growth_bytes)


def _reserve(host: HostSample, record: HostRecord, settings: Settings) -> int:
    """What the host keeps for itself, and for what grows in it."""
    constants = settings.constants
    growth_bytes = record.others_growth_bytes * constants.others_growth_times
    most_bytes = int((host.total_bytes or 0) * constants.others_growth_most_share)
    return _own_reserve(host, settings) + min(growth_bytes, most_bytes)


def _own_reserve(host: HostSample, settings: Settings) -> int:
    """What was decided, or is usual."""
    if settings.reserve_bytes is not None:
        return settings.reserve_bytes
    constants, total_bytes = settings.constants, host.total_bytes or 0
    most_bytes = int(total_bytes * constants.reserve_most_share)
    usual_bytes = min(constants.reserve_least_bytes, most_bytes)
    return max(usual_bytes, int(total_bytes * constants.reserve_share))


def _next_state(
    before: HostRecord, host: HostSample, reserve_bytes: int, now_s: float, constants: Constants
) -> tuple[HostState, float | None]:
    """A worse state at once; a better one when there is a margin, and it lasts."""
    if host.available_bytes is None:
        return HostState.GREEN, None
    seen = _state_at(host, reserve_bytes, 1.0, constants)
    if seen.value >= before.state.value:
        return seen, None
    safe = _state_at(host, reserve_bytes, 1.0 + constants.host_better_share, constants)
    if safe.value >= before.state.value:
        return before.state, None
    since_s = now_s if before.better_since_s is None else before.better_since_s
    if now_s - since_s < constants.host_better_s:
        return before.state, since_s
    return safe, None


def _state_at(
    host: HostSample, reserve_bytes: int, margin: float, constants: Constants
) -> HostState:
    if (host.full_stall_share or 0.0) >= constants.host_full_stall_share:
        return HostState.RED
    available_bytes = host.available_bytes or 0
    for state, share in _LEFT:
        if available_bytes >= reserve_bytes * share * margin:
            return state
    return HostState.RED
