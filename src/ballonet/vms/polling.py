"""Fresh statistics of a VM, whose polling is left as it was found.

Setting the interval to another one and back makes the machine ask the guest at once: to 0 with QEMU
and our device, by a second with Firecracker.  So somebody else's interval is never changed for
longer than one command.
Units: seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from ballonet.errors import MonitorError
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.machine import Machine

__all__ = ["Polling", "polling"]

_LOOK_S: Final = 0.1


class Polling:
    """Asks the guest for statistics; `polling` makes and ends it."""

    def __init__(self, vm: Machine, interval_s: int) -> None:
        self._vm, self._interval_s = vm, interval_s
        self._found_s: int | None = None  # the interval to put back
        self.newest: GuestStats | None = None  #: the newest that `ask` or `next` have seen

    async def ask(self) -> None:
        """Have the guest asked at once. Raises: MonitorError, GuestError."""
        self.newest = await self._vm.guest_stats()
        found_s = await self._vm.poll_interval()
        # What is to be put back is known before anything is changed: this may be cut short.
        self._found_s = found_s if self._found_s is None or not found_s else self._found_s
        if found_s:
            await self._vm.set_poll_interval(self._vm.detour_interval(found_s))
        await self._vm.set_poll_interval(found_s or self._interval_s)

    async def look(self) -> GuestStats | None:
        """The newest sample, if it is another one than the newest that was seen."""
        sample = await self._vm.guest_stats()
        if sample == self.newest or sample.last_update_s is None:
            return None
        self.newest = sample
        return sample

    async def next(self, timeout_s: float) -> GuestStats | None:
        """The next sample; None if none comes in time. Raises: MonitorError, GuestError."""
        end_s = time.monotonic() + timeout_s
        while True:
            sample = await self.look()
            if sample is not None or time.monotonic() > end_s:
                return sample
            await asyncio.sleep(_LOOK_S)

    async def put_back(self) -> None:
        """Leave the interval as it was found, unless somebody else has changed it meanwhile."""
        if self._found_s is None:
            return
        detour_s = self._vm.detour_interval(self._found_s)
        changed_to_s = detour_s if self._found_s else self._interval_s
        with suppress(MonitorError):  # the VM is gone, and its polling with it
            if await self._vm.poll_interval() == changed_to_s:
                await self._vm.set_poll_interval(self._found_s)


@asynccontextmanager
async def polling(vm: Machine, interval_s: int = 1) -> AsyncIterator[Polling]:
    """Statistics inside the block; nothing is asked before `ask`, and all is put back after."""
    it = Polling(vm, interval_s)
    try:
        yield it
    finally:
        await it.put_back()
