"""A fresh sample of a guest's statistics, or why there is none.

Units: seconds.
"""

from __future__ import annotations

from typing import Final

from ballonet.errors import GuestError
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.machine import Ability, Machine
from ballonet.vms.polling import Polling

__all__ = ["fresh_sample"]

_FIRST_S: Final = 10.0
#: Where no age is told a guest that answers the same again looks like one that does not answer.
_AGELESS_S: Final = 3.0


async def fresh_sample(vm: Machine, guest: Polling) -> GuestStats:
    """The next sample, after `Polling.ask`; one of no known age, where none is told.

    Raises: MonitorError; GuestError, saying what is known.
    """
    tells_age = Ability.AGE in vm.abilities
    timeout_s = max(_FIRST_S, 3.0 * await vm.poll_interval()) if tells_age else _AGELESS_S
    sample = await guest.next(timeout_s)
    if sample is None and not tells_age:
        sample = guest.newest
    if sample is not None and (tells_age or sample.values):
        return sample
    raise GuestError(f"no fresh statistics within {timeout_s:.0f} s: {await _why_not(vm)}")


async def _why_not(vm: Machine) -> str:
    if await vm.is_paused():
        return "the VM is paused"
    info = await vm.device_info()
    if info is not None:
        return info.problem or info.stats or "the device does not say why"
    return "the guest does not answer; whether it has a balloon driver is not known"
