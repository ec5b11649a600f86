"""How long it takes until the host has so much more, such as 16 GiB.

Every VM gives what is free in it first, then its cache, five times more slowly; the speed is what
was measured of it, or usual.  What it uses, should keep, or cannot be asked for, it does not give.
Units: bytes, seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ballonet.autopilot.constants import Constants
from ballonet.autopilot.law import Step
from ballonet.autopilot.vm_state import MAY_GIVE

__all__ = ["Donor", "donors_of", "seconds_until"]


class Donor(NamedTuple):
    """What one VM could give, if everybody kept no more than it needs."""

    vm: str
    free_bytes: int
    cache_bytes: int
    free_bytes_per_s: float
    cache_bytes_per_s: float

    def given_after(self, seconds: float) -> float:
        """What has come back then."""
        free_bytes = min(self.free_bytes, self.free_bytes_per_s * seconds)
        left_s = seconds - self.free_bytes / self.free_bytes_per_s
        return free_bytes + min(self.cache_bytes, self.cache_bytes_per_s * max(0.0, left_s))

    @property
    def seconds(self) -> float:
        """Until it has given all."""
        return self.free_bytes / self.free_bytes_per_s + self.cache_bytes / self.cache_bytes_per_s


def donors_of(decided: Step, constants: Constants) -> tuple[Donor, ...]:
    """Who could give what after this round; the surplus that is lent comes back first."""
    found = []
    for vm, one in decided.standings.items():
        known = one.record.estimate
        if known is None or one.record.state not in MAY_GIVE:
            continue
        keeps_bytes = max(one.least_bytes, one.need.growth_bytes)
        spare_bytes = max(0, one.record.sizes.actual_bytes - keeps_bytes)
        free_bytes = min(spare_bytes, known.reading.free_bytes or 0)
        rate = max(1.0, one.record.progress.rate_bytes_per_s)
        found.append(
            Donor(vm, free_bytes, spare_bytes - free_bytes, rate, rate * constants.cache_rate_share)
        )
    return tuple(found)


def seconds_until(donors: Iterable[Donor], wanted_bytes: int, free_bytes: int) -> float | None:
    """Until `wanted_bytes` are free, of which `free_bytes` are now; None: never.

    What all give together never falls with time, so it is found by halving.
    """
    donors = tuple(donors)
    missing_bytes = wanted_bytes - free_bytes
    if missing_bytes <= 0:
        return 0.0
    least_s, most_s = 0.0, max((one.seconds for one in donors), default=0.0)
    if sum(one.free_bytes + one.cache_bytes for one in donors) < missing_bytes:
        return None
    for _ in range(60):
        middle_s = (least_s + most_s) / 2
        if sum(one.given_after(middle_s) for one in donors) >= missing_bytes:
            most_s = middle_s
        else:
            least_s = middle_s
    return most_s
