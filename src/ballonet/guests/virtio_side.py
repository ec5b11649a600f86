"""The virtio balloon of the embedded guest: our driver behind a vhost-user front-end of ours."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from ballonet.driver.balloon_driver import BalloonDriver
from ballonet.driver.settings import DriverSettings
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Job
from ballonet.memory.fence import full_fence
from ballonet.memory.regions import Region
from ballonet.memory.shared_file import SharedFile
from ballonet.runtime.event_loop import Watcher
from ballonet.vhost_user.frontend import FrontEnd, SharedRegion

__all__ = ["VirtioSide"]

_RECONNECT_NS: Final = 100_000_000
#: Where guest memory lies in the addresses of its own process; only rings are named by it.
_UVA: Final = 1 << 40


class VirtioSide:
    """A `BalloonSide`."""

    def __init__(
        self,
        kernel: Kernel,
        watcher: Watcher,
        path: Path,
        memory: SharedFile,
        settings: DriverSettings,
    ) -> None:
        region = Region(0, memory.size, _UVA, 0)
        self.front_end: Final = FrontEnd(
            watcher,
            path,
            [SharedRegion(region, memory.fd)],
            called=self._called,
            config_changed=self._config_changed,
            reconnected=self._reconnected,
        )
        self.driver: Final = BalloonDriver(kernel, self.front_end, full_fence, settings)
        self._reconnect_ns = 0

    @property
    def is_connected(self) -> bool:
        """There is a device."""
        return self.front_end.is_connected

    @property
    def deadline_ns(self) -> int | None:
        """When a lost device is to be looked for, by the host's clock."""
        return None if self.front_end.is_connected else self._reconnect_ns

    @property
    def actual_pages(self) -> int:
        """What the driver has in the balloon, in pages of 4 KiB."""
        return self.driver.size.actual_pages

    def start(self) -> None:
        """Find the device and take it into use. Raises: GuestError."""
        self.front_end.connect()
        self.driver.start()

    def reconnect(self) -> None:
        """Look for a device that is lost, if it is time."""
        now_ns = time.monotonic_ns()
        if not self.front_end.is_connected and now_ns >= self._reconnect_ns:
            self._reconnect_ns = now_ns + _RECONNECT_NS
            self.front_end.reconnect()

    def facts(self) -> dict[str, object]:
        """What whoever asks the guest for its driver is told."""
        driver = self.driver
        return {
            "negotiated": int(driver.negotiated),
            "actual_pages": driver.size.actual_pages,
            "out_of_puff": driver.size.out_of_puff,
            "hint_rounds": driver.hints.rounds if driver.hints else 0,
            "reports": driver.reports.chains if driver.reports else 0,
            "reconnections": self.front_end.reconnections,
        }

    def freeze(self) -> Job[None]:
        """Empty the balloon and let go of the device, as before hibernation."""
        return self.driver.freeze()

    def restore(self) -> Job[None]:
        """Take the device into use again. Raises: GuestError."""
        return self.driver.restore()

    def remove(self) -> Job[None]:
        """Empty the balloon and forget the device."""
        return self.driver.remove()

    def close(self) -> None:
        """Hang up; safe to call again."""
        self.front_end.close()

    def _called(self, queue: int) -> None:
        self.driver.called(queue)

    def _config_changed(self) -> None:
        self.driver.config_changed()

    def _reconnected(self) -> None:
        self.driver.reconnected()
