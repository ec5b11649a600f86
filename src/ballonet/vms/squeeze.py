"""A guest gives what it does not need before it is moved, so that what is free need not be sent.

The size is put back at the source as soon as the migration is on its way: the target travels with
the device, so the guest gets its memory back wherever it is then.  What was dropped reads as zeros
until the guest uses it again, so little of what was saved is lost by this; to wait for the end of
the first pass was tried, and was too late for an idle guest, whose first pass is its last.
Units: bytes left to the guest (logical size), seconds.
Source: QEMU hw/virtio/virtio-balloon.c, whose state has num_pages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ballonet.units import format_bytes
from ballonet.vms.change import Progress, Verdict
from ballonet.vms.machine import Machine
from ballonet.vms.migration_progress import MigrationLook, MigrationStage
from ballonet.vms.polling import polling
from ballonet.vms.resize import Resize, find_floor

__all__ = ["Squeeze"]

_SQUEEZE_S: Final = 60.0


class Squeeze:
    """From a smaller size to the size there was."""

    def __init__(self, show: Callable[[Progress], None], say: Callable[[str], None]) -> None:
        self._show, self._say = show, say
        self._found_bytes: int | None = None  # to be put back
        self._unsure = False  # put back, and not seen yet that it was in time
        self.squeezed_to_bytes: int | None = None
        self.put_back_at: str | None = None  #: source, destination; None: nowhere, or not known

    async def begin(self, vm: Machine) -> None:
        """Take what the guest does not need, if it tells. Raises: BallonetError."""
        has_bytes = await vm.logical_bytes()
        ram_bytes = await vm.ram_bytes() or has_bytes
        found_bytes = await _asked_bytes(vm) or has_bytes
        paused = await vm.is_paused()
        async with polling(vm) as guest:
            floor = await find_floor(vm, guest, ram_bytes, has_bytes, paused=paused)
        if floor.used_bytes is None:
            why = "the VM is paused" if paused else "the guest sends no statistics"
            self._say(f"not squeezed: {why}, so what it needs is not known")
            return
        if floor.floor_bytes >= found_bytes:
            self._say("not squeezed: the guest needs all that it has")
            return
        self._found_bytes = found_bytes  # known before anything is changed
        outcome = await Resize(vm, floor.floor_bytes, self._show).run(
            force=True, deadline_s=_SQUEEZE_S
        )
        if outcome.verdict is Verdict.SUFFERING:
            await self._ask_for_it_back(vm)
            self._say(f"not squeezed: {outcome.why}")
            return
        kept_bytes = outcome.actual_bytes
        if kept_bytes is None:
            kept_bytes = await vm.logical_bytes()
        self.squeezed_to_bytes = kept_bytes
        self._say(f"squeezed from {format_bytes(found_bytes)} to {format_bytes(kept_bytes)}")

    async def see(self, vm: Machine, look: MigrationLook) -> None:
        """Put the size back as soon as memory is being sent."""
        if self._unsure and await _was_in_time(vm, look):
            self._unsure = False
        if look.stage is MigrationStage.BEFORE and look.total_bytes:
            await self.leave(vm)

    async def leave(self, vm: Machine) -> None:
        """Put the size back before the guest goes, if it was not yet. Raises: MonitorError."""
        if self._found_bytes is not None:
            await self._ask_for_it_back(vm)
            self._unsure = True

    async def end(self, vm: Machine, look: MigrationLook) -> None:
        """Put it back here if the guest is here; say where it was. Raises: MonitorError."""
        has_gone = look.stage in (
            MigrationStage.AFTER,
            MigrationStage.SPLIT,
            MigrationStage.COMPLETED,
        )
        if not has_gone:
            await self._ask_for_it_back(vm)
        if self.squeezed_to_bytes is None:
            return
        if not has_gone:
            self.put_back_at = "source"
        elif self._found_bytes is None and not self._unsure:
            self.put_back_at = "destination"
        else:
            self._say(
                f"the guest may keep {format_bytes(self.squeezed_to_bytes)} at the destination: it"
                " had gone before its size was put back; `ballonet set` there gives it back"
            )

    async def _ask_for_it_back(self, vm: Machine) -> None:
        if self._found_bytes is not None:
            await vm.set_logical_bytes(self._found_bytes)
            self._found_bytes = None


async def _asked_bytes(vm: Machine) -> int | None:
    """What the guest was asked to keep, which it may not have yet; None: that is not told."""
    info = await vm.device_info()
    if info is None or info.ram_bytes is None or info.target_bytes is None:
        return None
    return max(0, info.ram_bytes - info.target_bytes)


async def _was_in_time(vm: Machine, look: MigrationLook) -> bool:
    """The guest is there after the command, or has gone by a command that was sent after it.

    QEMU's status stays `active` while it waits for the destination's last word; but the guest has
    been stopped by then.
    """
    if look.stage is MigrationStage.AFTER:
        return True
    return look.stage is MigrationStage.BEFORE and not await vm.is_paused()
