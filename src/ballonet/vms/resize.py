"""The whole of a request for another size: its floor, the request, what comes of it.

A guest that is to give more than it can, or suffers from it, gets the request taken back: the
driver would try again five times a second, and take whatever the guest frees.
Units: bytes left to the guest (logical size), seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from ballonet.errors import CommandRefusedError, GuestError
from ballonet.vms.change import ABSENT_AFTER_S, Change, Look, Progress, Verdict
from ballonet.vms.distress import Distress
from ballonet.vms.floor import Floor, floor_of
from ballonet.vms.guest_stats import GuestStats
from ballonet.vms.machine import Ability, Machine
from ballonet.vms.polling import Polling, polling

__all__ = ["Outcome", "Resize", "find_floor"]

#: A guest answers for its statistics within 0.04 s, or 3 s on a very busy machine.
_STATS_S: Final = 5.0
_LOOK_S: Final = 0.2
#: Asked for and taken back, to see whether the guest reports anything; whole pages of any guest.
_NUDGE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request."""

    asked_bytes: int
    wanted_bytes: int  #: no more than all the guest's memory
    before_bytes: int | None  #: None: it is not told
    actual_bytes: int | None
    verdict: Verdict | None = None  #: None: it was not waited for, or refused
    floor: Floor | None = None  #: of a request to shrink
    refused: bool = False
    paused: bool = False
    waited_s: float | None = None
    why: str = ""
    taken_back_to_bytes: int | None = None


async def find_floor(
    vm: Machine, guest: Polling, ram_bytes: int, start_bytes: int, *, paused: bool
) -> Floor:
    """By fresh statistics, if the guest sends any; `start_bytes` is its size of a moment ago.

    Raises: MonitorError.
    """
    sample = None
    if not paused:
        # A balloon that nobody can ask, such as hv-balloon, or one that refuses.
        with suppress(GuestError, CommandRefusedError):
            await guest.ask()
            sample = await guest.next(_STATS_S)
    logical_bytes = max(start_bytes, await vm.logical_bytes())
    return floor_of(ram_bytes, logical_bytes, None if sample is None else sample.available_bytes)


class Resize:
    """One request for one machine; `run` it once."""

    def __init__(
        self, vm: Machine, size_bytes: int | None, show: Callable[[Progress], None]
    ) -> None:
        """`size_bytes`: None asks for the guest's floor."""
        self._vm, self._show = vm, show
        self._is_least, self._asked_bytes = size_bytes is None, size_bytes or 0
        self._ram_bytes = self._wanted_bytes = self._start_bytes = 0
        self._floor: Floor | None = None

    async def run(self, *, force: bool, deadline_s: float | None) -> Outcome:
        """Ask, and if there is a deadline wait until then at most. Raises: BallonetError.

        Without `force` a size below the guest's floor is not asked for.
        """
        vm = self._vm
        if Ability.ACTUAL not in vm.abilities:
            return await self._ask_blindly(force=force, waits=deadline_s is not None)
        self._start_bytes = await self._logical_bytes()
        self._ram_bytes = await vm.ram_bytes() or self._start_bytes
        async with polling(vm) as guest:
            paused = await vm.is_paused()
            if self._is_least or self._asked_bytes < self._start_bytes:
                self._floor = await find_floor(
                    vm, guest, self._ram_bytes, self._start_bytes, paused=paused
                )
            outcome = replace(self._prepared(self._start_bytes), paused=paused)
            if self._is_below_floor and not force:
                return replace(outcome, refused=True, why=str(self._floor))
            await vm.set_logical_bytes(self._asked_bytes)
            if deadline_s is None:
                return outcome
            return await self._follow(guest, outcome, deadline_s)

    async def _ask_blindly(self, *, force: bool, waits: bool) -> Outcome:
        """Where it is not told what the guest has: nothing that comes of it can be seen.

        Raises: BallonetError.
        """
        ram_bytes = await self._vm.ram_bytes()
        if ram_bytes is None:
            raise GuestError("how much memory the guest has is not told")
        self._ram_bytes = ram_bytes
        self._floor = floor_of(ram_bytes, ram_bytes, None)
        outcome = replace(self._prepared(None), paused=await self._vm.is_paused())
        if self._is_below_floor and not force:
            return replace(outcome, refused=True, why=str(self._floor))
        await self._vm.set_logical_bytes(self._asked_bytes)
        verdict = Verdict.UNTOLD if waits else None
        return replace(outcome, verdict=verdict, why=verdict.value if verdict else "")

    def _prepared(self, start_bytes: int | None) -> Outcome:
        """What is to be asked for, now that all sizes are known."""
        if self._is_least and self._floor is not None:
            self._asked_bytes = self._floor.floor_bytes
        step_bytes = self._vm.size_step_bytes
        balloon_bytes = max(0, self._ram_bytes - self._asked_bytes) // step_bytes * step_bytes
        self._wanted_bytes = self._ram_bytes - balloon_bytes
        return Outcome(
            self._asked_bytes, self._wanted_bytes, start_bytes, start_bytes, floor=self._floor
        )

    @property
    def _is_below_floor(self) -> bool:
        return self._floor is not None and self._wanted_bytes < self._floor.floor_bytes

    async def _logical_bytes(self) -> int:
        info = await self._vm.device_info()
        if info is not None and info.ram_bytes is None:
            raise GuestError(info.problem or "no VMM is connected to the device yet")
        return await self._vm.logical_bytes()

    async def _follow(self, guest: Polling, outcome: Outcome, deadline_s: float) -> Outcome:
        begun_s = time.monotonic()
        watch = _Watch(self._vm, guest, self._ram_bytes, self._start_bytes)
        await watch.begin()
        change = Change(self._start_bytes, self._wanted_bytes, begun_s)
        is_nudged = await self._nudge()
        try:
            while True:
                look = await watch.look()
                self._show(change.see(look))
                waited_s = look.now_s - begun_s
                if is_nudged and (
                    look.actual_bytes != self._start_bytes or waited_s > ABSENT_AFTER_S
                ):
                    is_nudged = False
                    await self._vm.set_logical_bytes(self._asked_bytes)
                verdict = None if is_nudged else change.verdict(begun_s + deadline_s)
                if verdict is not None:
                    break
                await asyncio.sleep(_LOOK_S)
        finally:
            if is_nudged:
                await self._vm.set_logical_bytes(self._asked_bytes)
        outcome = replace(
            outcome,
            actual_bytes=look.actual_bytes,
            verdict=verdict,
            waited_s=round(waited_s, 3),
            paused=look.paused,
            why=watch.why or look.distress or verdict.value,
        )
        return await self._take_back(outcome)

    async def _nudge(self) -> bool:
        """Have the guest report its size if it has it already: QEMU may show an old kernel's."""
        is_there = self._start_bytes == self._wanted_bytes < self._ram_bytes
        if is_there and not self._vm.is_ours:
            await self._vm.set_logical_bytes(self._wanted_bytes + _NUDGE_BYTES)
        return is_there and not self._vm.is_ours

    async def _take_back(self, outcome: Outcome) -> Outcome:
        """Ask for what the guest has, and at least its floor, where it cannot give more."""
        hurts = outcome.verdict in (Verdict.STUCK, Verdict.SUFFERING)
        if not hurts or self._floor is None or outcome.actual_bytes is None:
            return outcome
        if outcome.actual_bytes <= self._wanted_bytes:
            return outcome
        enough_bytes = min(self._start_bytes, self._floor.floor_bytes)
        back_bytes = max(outcome.actual_bytes, enough_bytes)
        await self._vm.set_logical_bytes(back_bytes)
        return replace(outcome, taken_back_to_bytes=back_bytes)


class _Watch:
    """Makes a `Look` of what several commands tell, each time with the size of one moment."""

    def __init__(self, vm: Machine, guest: Polling, ram_bytes: int, start_bytes: int) -> None:
        self._vm, self._guest, self._ram_bytes = vm, guest, ram_bytes
        self._distress = Distress(ram_bytes, guest.newest, start_bytes)
        self._resets, self._reset_wall_s = vm.resets, 0.0
        self._sample: GuestStats | None = None
        self._answers = 0
        self._number: int | None = None
        self._is_oom = False
        self.why = ""  #: in our own device's words

    async def begin(self) -> None:
        """Right after the request: have statistics sent, and note its number."""
        info = await self._vm.device_info()
        self._number = None if info is None else info.request_number
        with suppress(GuestError, CommandRefusedError):
            if self._guest.newest is None:
                await self._guest.ask()
            self._is_oom = await self._vm.deflates_on_oom()

    async def look(self) -> Look:
        """What is known now."""
        vm = self._vm
        paused = await vm.is_paused()
        info = await vm.device_info()
        logical_bytes = None if info is None else info.logical_bytes
        if logical_bytes is None:
            logical_bytes = await vm.logical_bytes()
        distress = await self._new_distress(logical_bytes)
        self._note_resets()
        look = Look(
            time.monotonic(),
            logical_bytes,
            paused=paused,
            is_current=logical_bytes == self._ram_bytes,  # an empty balloon needs no driver
            resets=self._resets,
            answers=self._answers,
            least_bytes=self._least_bytes(),
            distress=distress,
        )
        if info is None:
            return look
        self.why = info.problem or info.why or ""
        self._number = info.request_number if self._number is None else self._number
        return replace(
            look,
            has_driver=info.has_driver,
            is_current=info.has_driver,
            superseded=info.request_number != self._number,
        )

    async def _new_distress(self, logical_bytes: int) -> str | None:
        sample = None
        with suppress(GuestError, CommandRefusedError):
            sample = await self._guest.look()
        if sample is None or (sample.last_update_s or 0) < self._reset_wall_s:
            return None
        self._sample = sample
        self._answers += 1
        return self._distress.see(sample, logical_bytes)

    def _note_resets(self) -> None:
        if self._vm.resets != self._resets:
            self._resets, self._reset_wall_s = self._vm.resets, time.time()
            self._sample = None  # of a kernel that is gone

    def _least_bytes(self) -> int | None:
        """What its kernel manages, which with deflate-on-oom includes the balloon."""
        if self._sample is None:
            return None
        return self._sample.available_bytes if self._is_oom else self._sample.total_bytes
