"""A device as the machine behind a monitor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, TypeVar

from ballonet.control.control import Control
from ballonet.control.status import told
from ballonet.errors import UsageError
from ballonet.monitor.device_hints import DeviceHints
from ballonet.monitor.outbox import EventData
from ballonet.qmp.machine import HvBalloonReports
from ballonet.qmp.version import NEWEST, QemuVersion
from ballonet.units import bytes_to_pages, pages_to_bytes

__all__ = ["DeviceMachine"]

T = TypeVar("T")

#: For the device's thread, which may be at a long piece of work.
_PATIENCE_S: Final = 10.0
#: What QEMU names the device of each protocol; it has none of VMware's.
_TYPES: Final = {
    "virtio": "virtio-balloon-pci",
    "hyperv": "hv-balloon",
    "vmware": "x-ballonet-vmware-balloon",
}


class DeviceMachine:
    """A `Machine`; its memory is what the front-end shares, unless said otherwise."""

    def __init__(
        self,
        control: Control,
        *,
        balloon_id: str = "balloon0",
        memory_bytes: int | None = None,
        name: str | None = None,
        version: QemuVersion = NEWEST,
        post: Callable[[str, EventData], None],
    ) -> None:
        """`name`: of the guest, if it is known; `version`: that its monitor speaks as."""
        self.balloon_id, self.name, self.version = balloon_id, name, version
        self._control, self._memory_bytes = control, memory_bytes
        self._post = post
        self.hints: Final = DeviceHints(control.hints)
        self._has_ended = False

    @property
    def balloon_type(self) -> str:
        """Which device the balloon is, as QEMU names its types."""
        return _TYPES[self._control.latest.protocol]

    @property
    def hv_balloon(self) -> HvBalloonReports | None:
        """What a balloon of Hyper-V's kind was told; None, if it is of another kind."""
        reports = self._control.latest.status_reports
        if reports is None:
            return None
        return HvBalloonReports(
            reports.are_enabled, reports.committed_bytes, reports.available_bytes
        )

    @property
    def ram_bytes(self) -> int | None:
        """Memory of the guest; None while there is none."""
        shared = self._control.latest.guest_bytes
        return (self._memory_bytes or shared) if shared else None

    @property
    def logical_bytes(self) -> int:
        """Memory less the balloon."""
        return self.without_balloon(self._control.latest.actual_pages)

    def without_balloon(self, balloon_pages: int) -> int:
        """Memory less a balloon of this size; never less than none, whatever the driver says."""
        return max(0, (self.ram_bytes or 0) - pages_to_bytes(balloon_pages))

    @property
    def running(self) -> bool:
        """Not stopped by `stop`; true at once, whenever the device's thread gets to it."""
        return not self._control.latest.paused

    @property
    def stats(self) -> dict[str, int]:
        """The newest statistics."""
        reading = self._control.latest.stats
        return {} if reading is None else reading.sample.values

    @property
    def stats_last_update_s(self) -> int:
        """Time of day of the newest statistics."""
        reading = self._control.latest.stats
        return 0 if reading is None else reading.received_wall_s

    @property
    def poll_interval_s(self) -> int:
        """Seconds between questions."""
        return self._control.latest.poll_interval_s

    async def set_logical_bytes(self, size: int) -> None:
        """Ask for a balloon that leaves the guest this much."""
        ram = self.ram_bytes or 0
        await _done(self._control.set_target(bytes_to_pages(ram - min(size, ram))))

    async def set_poll_interval(self, seconds: int) -> None:
        """Ask for statistics so often."""
        await _done(self._control.stats.set_poll_interval(seconds))

    async def stop(self) -> None:
        """Let time stand still."""
        if self.running:
            await _done(self._control.pause())
            self._post("STOP", dict)

    async def cont(self) -> None:
        """Let time go on."""
        if not self.running:
            await _done(self._control.unpause())
            self._post("RESUME", dict)

    async def expedite(self) -> None:
        """Drop what was put off."""
        await _done(self._control.expedite())

    def quit(self) -> None:
        """End the device."""
        self.end("host-qmp-quit")
        self._control.stop()

    def end(self, reason: str) -> None:
        """Tell clients of the end, once."""
        if not self._has_ended:
            self._has_ended = True
            self._post("SHUTDOWN", lambda: {"guest": False, "reason": reason})

    async def info(self) -> dict[str, object]:
        """Everything else that is known; nothing of a device that does not answer."""
        with suppress(TimeoutError, UsageError):
            now = await _done(self._control.status_soon())
            return {"ram": self.ram_bytes, **told(now)}
        return {}


async def _done(answer: Future[T]) -> T:
    """What the device answers. Raises: TimeoutError, UsageError."""
    async with asyncio.timeout(_PATIENCE_S):
        return await asyncio.wrap_future(answer)
