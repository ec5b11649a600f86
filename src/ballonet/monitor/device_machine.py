"""A device as the machine behind a monitor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Final

from ballonet.errors import UsageError
from ballonet.monitor.outbox import EventData
from ballonet.qmp.version import NEWEST, QemuVersion
from ballonet.units import bytes_to_pages, pages_to_bytes
from ballonet.vhost_user.server import DeviceServer, Snapshot
from ballonet.virtio.features import feature_names

__all__ = ["DeviceMachine"]

_NS_PER_MS: Final = 1_000_000
#: For the device's thread, which may be at a long piece of work.
_PATIENCE_S: Final = 10.0


class DeviceMachine:
    """A `Machine`; its memory is what the front-end shares, unless said otherwise."""

    def __init__(
        self,
        device: DeviceServer,
        *,
        balloon_id: str = "balloon0",
        memory_bytes: int | None = None,
        name: str | None = None,
        version: QemuVersion = NEWEST,
        post: Callable[[str, EventData], None],
    ) -> None:
        """`name`: of the guest, if it is known; `version`: that its monitor speaks as."""
        self.balloon_id, self.name, self.version = balloon_id, name, version
        self._device, self._memory_bytes = device, memory_bytes
        self._post = post
        self._has_ended = False

    @property
    def ram_bytes(self) -> int | None:
        """Memory of the guest; None while there is none."""
        shared = self._device.peek().guest_bytes
        return (self._memory_bytes or shared) if shared else None

    @property
    def logical_bytes(self) -> int:
        """Memory less the balloon."""
        return self.without_balloon(self._device.peek().actual_pages)

    def without_balloon(self, balloon_pages: int) -> int:
        """Memory less a balloon of this size; never less than none, whatever the driver says."""
        return max(0, (self.ram_bytes or 0) - pages_to_bytes(balloon_pages))

    @property
    def running(self) -> bool:
        """Not stopped by `stop`; true at once, whenever the device's thread gets to it."""
        return not self._device.peek().paused

    @property
    def stats(self) -> dict[str, int]:
        """The newest statistics."""
        reading = self._device.peek().stats
        return {} if reading is None else reading.sample.values

    @property
    def stats_last_update_s(self) -> int:
        """Time of day of the newest statistics."""
        reading = self._device.peek().stats
        return 0 if reading is None else reading.received_wall_s

    @property
    def poll_interval_s(self) -> int:
        """Seconds between questions."""
        return self._device.peek().poll_interval_s

    def set_logical_bytes(self, size: int) -> None:
        """Ask for a balloon that leaves the guest this much."""
        ram = self.ram_bytes or 0
        self._device.set_target(bytes_to_pages(ram - min(size, ram)))

    def set_poll_interval(self, seconds: int) -> None:
        """Ask for statistics so often."""
        self._device.set_poll_interval(seconds)

    def stop(self) -> None:
        """Let time stand still."""
        if self.running:
            self._device.pause()
            self._post("STOP", dict)

    def cont(self) -> None:
        """Let time go on."""
        if not self.running:
            self._device.unpause()
            self._post("RESUME", dict)

    def drain(self) -> None:
        """Drop what was put off."""
        self._device.drain()

    def quit(self) -> None:
        """End the device."""
        self.end("host-qmp-quit")
        self._device.stop()

    def end(self, reason: str) -> None:
        """Tell clients of the end, once."""
        if not self._has_ended:
            self._has_ended = True
            self._post("SHUTDOWN", lambda: {"guest": False, "reason": reason})

    async def info(self) -> dict[str, object]:
        """Everything else that is known; nothing of a device that does not answer."""
        with suppress(TimeoutError, UsageError):
            async with asyncio.timeout(_PATIENCE_S):
                now = await asyncio.wrap_future(self._device.snapshot_soon())
            return {"ram": self.ram_bytes, **_info(now)}
        return {}


def _info(now: Snapshot) -> dict[str, object]:
    return {
        "connected": now.connected,
        "running": now.running,
        "paused": now.paused,
        "features": feature_names(now.negotiated),
        "guest-memory": now.guest_bytes,
        "host-memory": now.held_bytes,
        "target-pages": now.target_pages,
        "actual-pages": now.actual_pages,
        "stage": now.stage.name.lower().replace("_", "-"),
        "why": now.stage.value,
        "request": _request(now),
        "stats": now.stats_diagnosis.value,
        "stats-age": now.stats_age_s,
        "poison-val": now.poison_val,
        "hint-round": now.hint_state.lower(),
        "waiting": now.waiting_bytes,
        "inhibited": [reason.value for reason in now.inhibited],
        "broken": now.broken,
        "problem": now.problem,
        "counters": {name.replace("_", "-"): value for name, value in asdict(now.counters).items()},
    }


def _request(now: Snapshot) -> dict[str, object]:
    """Milliseconds from each step of the newest request to now; its number first."""
    times = asdict(now.request)
    number = times.pop("number")
    ages = {
        name.removesuffix("_ns") + "-ms-ago": None
        if at is None
        else round((now.now_ns - at) / _NS_PER_MS, 3)
        for name, at in times.items()
    }
    return {"number": number, **ages}
