"""A machine moved to another place: asked for, followed, and ended so that the guest lives.

Before the guest has gone, whatever ends this ends the migration, and the guest goes on at the
source.  With post-copy it has gone long before its memory has: then nothing may end the migration,
for the memory is at both ends.  A monitor that is lost leaves the outcome unknown; it is connected
to again and asked, and nothing is begun twice.
Units: bytes, seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Final

from ballonet.errors import CommandRefusedError, GuestError, MigrationError, MonitorError
from ballonet.vms.change import Progress
from ballonet.vms.machine import Machine
from ballonet.vms.migration_progress import (
    MigrationLook,
    MigrationOutcome,
    MigrationProgress,
    MigrationRates,
    MigrationStage,
)
from ballonet.vms.migration_setup import DOWNTIME_MOST_MS, MigrationRequest, MigrationSetup
from ballonet.vms.squeeze import Squeeze

__all__ = ["Migration", "MigrationViewer"]

_LOOK_S: Final = 0.2
#: QEMU ends one that is cancelled within milliseconds, unless its connection hangs.
_CANCEL_S: Final = 60.0
#: After the end; QEMU tells of it some milliseconds before it has measured it.
_SETTLE_S: Final = 2.0
_SETTLE_LOOK_S: Final = 0.05
#: For so long a monitor that was lost is tried again, so often.
_REACH_AGAIN_S: Final = 15.0
_AGAIN_S: Final = 0.5
#: QEMU says that a post-copy is interrupted until it has found the destination again.
_RESUME_S: Final = 5.0
_UNKNOWN: Final = (
    "the outcome is not known: do not begin again, and end neither VM, before `ballonet info` shows"
    " which of them runs"
)


@dataclass(frozen=True, slots=True)
class MigrationViewer:
    """Whoever is shown how it goes."""

    show: Callable[[MigrationProgress], None]
    squeezing: Callable[[Progress], None]
    say: Callable[[str], None]  #: a line that matters


class Migration:
    """One migration of one machine; `run` it once."""

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Machine]],
        request: MigrationRequest,
        viewer: MigrationViewer,
    ) -> None:
        self._connect, self._request, self._viewer = connect, request, viewer
        self._setup = MigrationSetup()
        self._squeeze = Squeeze(viewer.squeezing, viewer.say)
        self._before = self._look = MigrationLook()
        self._rates = MigrationRates(0.0)
        self._ran_before = True
        self._is_sent = False  # `migrate`, whatever came of it
        self._is_begun = False  # ... and was answered
        self._is_going = False  # to the destination by post-copy: no way back
        self._begun_s = 0.0
        self._end_by_s: float | None = None  # after it was cancelled
        self._timed_out = False
        self._lost_s: float | None = None

    async def run(self) -> MigrationOutcome:
        """Raises: BallonetError; MigrationError, if it did not begin or its outcome is unknown."""
        while True:
            try:
                async with self._connect() as vm:
                    return await self._carry_out(vm)
            except CommandRefusedError:
                raise
            except MonitorError as error:
                await self._note_loss(error)
            except asyncio.CancelledError:
                if self._lost_s is not None:
                    self._viewer.say(_UNKNOWN)
                    self._tell_left()
                raise

    async def _note_loss(self, error: MonitorError) -> None:
        """Wait a moment. Raises: the error, if nothing was begun; MigrationError, after long."""
        if not self._is_sent:
            raise error
        now_s = time.monotonic()
        self._lost_s = now_s if self._lost_s is None else self._lost_s
        if now_s > self._lost_s + _REACH_AGAIN_S:
            self._tell_left()
            raise MigrationError(f"{error}; {_UNKNOWN}") from error
        await asyncio.sleep(_AGAIN_S)

    async def _carry_out(self, vm: Machine) -> MigrationOutcome:
        """Begin, or take up again; to the end."""
        is_lost = False
        try:
            if not self._is_sent:
                await self._begin(vm)
            await self._follow(vm)
        except (asyncio.CancelledError, CommandRefusedError, GuestError, MigrationError):
            if self._is_sent:
                await self._give_up(vm)
            raise
        except MonitorError:
            is_lost = self._is_sent  # and the migration goes on
            raise
        finally:
            if not is_lost:
                await self._put_back(vm)
        return await self._outcome(vm)

    async def _begin(self, vm: Machine) -> None:
        migration = vm.migration
        self._before = await migration.look()
        if not self._before.stage.is_over:
            raise MigrationError("another migration of this machine is on its way")
        self._ran_before = not await vm.is_paused()
        if not self._request.resumes:
            await self._prepare(vm)
        elif self._before.stage is not MigrationStage.SPLIT:
            raise MigrationError("no post-copy of this machine is interrupted")
        self._is_sent = True
        self._begun_s = time.monotonic()
        self._rates = MigrationRates(self._begun_s)
        try:
            await migration.begin(self._request.uri, resumes=self._request.resumes)
        except CommandRefusedError:
            self._is_sent = False
            raise
        self._is_begun = True

    async def _prepare(self, vm: Machine) -> None:
        """Settings, and size."""
        await self._setup.apply(vm.migration, self._request)
        if self._setup.has_postcopy:
            with suppress(GuestError, CommandRefusedError):  # it has no balloon
                if await vm.hints_free_pages():
                    self._viewer.say("free page hints do nothing with post-copy: all is sent")
        if self._request.squeezes:
            await self._squeeze.begin(vm)

    async def _follow(self, vm: Machine) -> None:
        """To the end, whatever it is. Raises: MonitorError, MigrationError."""
        while True:
            look = await self._take_look(vm)
            if not self._is_begun and look == self._before:
                self._is_sent = False
                raise MigrationError("the monitor was lost before the migration began")
            self._is_begun = True
            now_s = time.monotonic()
            self._viewer.show(self._rates.see(now_s, look))
            if look.stage.is_over and not self._is_resuming(look, now_s):
                await self._settle(vm)
                return
            await self._steer(vm, look, now_s)
            await vm.migration.wait(_LOOK_S)

    def _is_resuming(self, look: MigrationLook, now_s: float) -> bool:
        """It is interrupted still, and not again."""
        is_new = look.reason == self._before.reason and now_s < self._begun_s + _RESUME_S
        return self._request.resumes and look.stage is MigrationStage.SPLIT and is_new

    async def _take_look(self, vm: Machine) -> MigrationLook:
        """Raises: MigrationError, if it was cancelled and does not end; MonitorError."""
        noted, look = self._look.note, await vm.migration.look()
        self._look, self._lost_s = look, None
        self._is_going |= look.stage is MigrationStage.AFTER
        if look.note not in ("", noted) and not self._request.resumes:
            self._viewer.say(look.note)
        overdue = self._end_by_s is not None and time.monotonic() > self._end_by_s
        if overdue and not look.stage.is_over:
            raise MigrationError(f"{look.status} {_CANCEL_S:.0f} s after it was cancelled")
        return look

    async def _settle(self, vm: Machine) -> None:
        """A status comes before what follows from it: the times of one, the guest running again."""
        end_s = time.monotonic() + _SETTLE_S
        with suppress(MonitorError):  # how it ended is known
            while time.monotonic() < end_s:
                if self._look.stage is MigrationStage.COMPLETED:
                    if self._look.total_time_s != 0:
                        return
                elif not self._ran_before or await _is_running(vm) is not False:
                    return
                await asyncio.sleep(_SETTLE_LOOK_S)
                await self._take_look(vm)

    async def _steer(self, vm: Machine, look: MigrationLook, now_s: float) -> None:
        """What this moment asks for."""
        await self._squeeze.see(vm, look)
        is_to_go = self._request.postcopy and look.passes > 1 and look.status == "active"
        if is_to_go and not self._is_going and self._end_by_s is None:
            await self._go(vm)
        timeout_s = self._request.timeout_s
        if timeout_s is None or self._timed_out or now_s < self._begun_s + timeout_s:
            return
        self._timed_out = True
        if self._is_going:
            self._viewer.say(f"{timeout_s:g} s are over; the guest has gone, so it goes on")
        elif self._request.forces:
            self._viewer.say(f"{timeout_s:g} s are over: the guest stands still for the rest")
            await self._setup.change(vm.migration, {"downtime-limit": DOWNTIME_MOST_MS})
        else:
            await self._cancel(vm)

    async def _go(self, vm: Machine) -> None:
        """Have the guest go on at the destination: from here on nothing may end the migration."""
        await self._squeeze.leave(vm)
        self._is_going = True  # before it is sent: the reply may be lost
        try:
            await vm.migration.begin_postcopy()
        except CommandRefusedError:
            self._is_going = False
            raise

    async def _cancel(self, vm: Machine) -> None:
        if self._end_by_s is None:
            self._end_by_s = time.monotonic() + _CANCEL_S
            await vm.migration.cancel()

    async def _give_up(self, vm: Machine) -> None:
        """Whoever asked does not wait any longer; say what becomes of the guest."""
        say = self._viewer.say
        if self._is_going and not self._look.stage.is_over:
            say(
                "post-copy cannot be cancelled: the guest has gone, and its memory follows; do not"
                " end this VM before that is done"
            )
            return
        try:
            if self._look.stage is not MigrationStage.COMPLETED:
                await self._cancel(vm)
            while not (await self._take_look(vm)).stage.is_over:
                await vm.migration.wait(_LOOK_S)
            await self._settle(vm)
            say(await self._what_became(vm))
        except (MonitorError, MigrationError) as error:
            say(f"{error}; {_UNKNOWN}")

    async def _put_back(self, vm: Machine) -> None:
        """Size and settings as they were, as far as the machine is there and takes them."""
        with suppress(MonitorError):
            await self._squeeze.end(vm, self._look)
        await self._setup.put_back(vm.migration)
        self._tell_left()

    def _tell_left(self) -> None:
        left = self._setup.left
        if left:
            listed = ", ".join(f"{name} (it was {value})" for name, value in left.items())
            self._viewer.say(f"not put back: {listed}")

    async def _outcome(self, vm: Machine) -> MigrationOutcome:
        return MigrationOutcome(
            look=self._look,
            why=await self._what_became(vm),
            timed_out=self._timed_out,
            source_runs=await _is_running(vm),
            squeezed_to_bytes=self._squeeze.squeezed_to_bytes,
            size_put_back_at=self._squeeze.put_back_at,
        )

    async def _what_became(self, vm: Machine) -> str:
        look = self._look
        if look.stage is MigrationStage.COMPLETED:
            return "completed: the guest is at the destination"
        why: str = look.stage.value
        if look.stage is MigrationStage.CANCELLED and self._timed_out:
            why = f"cancelled after {self._request.timeout_s:g} s"
        elif look.reason:
            why = f"{why}: {look.reason}"
        if look.stage is MigrationStage.SPLIT:
            return why
        state = {True: "goes on", False: "is paused", None: "does not answer"}
        return f"{why}; the VM {state[await _is_running(vm)]} at the source"


async def _is_running(vm: Machine) -> bool | None:
    """None: nobody answers any more, as whoever owns the VM may end it once the guest has gone."""
    try:
        return not await vm.is_paused()
    except MonitorError:
        return None
