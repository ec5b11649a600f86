"""A guest with our device attached: what the demonstration, the benchmarks and the tests drive.

The device is served by a thread of this process, the guest is a process of its own.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from ballonet.balloon.facts import ActualChanged, Fact
from ballonet.control.device_control import DeviceControl
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest
from ballonet.guests.guest import Guest
from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings
from ballonet.guests.processes import PrivateDirectory
from ballonet.vhost_user.listener import listening_socket
from ballonet.vhost_user.server import make_server, serving

__all__ = ["Ballooned", "BalloonedEmbeddedGuest", "BalloonedGuest", "Resized"]

G = TypeVar("G", bound=Guest)

_PROGRESS_INTERVAL_S: Final = 0.1
#: Between two looks at what waits; each costs the device's thread about 50 µs.
_SETTLE_INTERVAL_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Resized:
    """How a change of target went; seconds from the request.

    The guest is done before the host has its memory: discards may be put off.
    """

    seconds: float  #: to the last move of `actual`
    host_seconds: float | None  #: until nothing waited to be dropped any more; None: it still does
    target_pages: int
    actual_pages: int
    waiting_bytes: int  #: given by the guest, and not dropped yet

    @property
    def reached(self) -> bool:
        """The driver says that it holds what it was asked for."""
        return self.actual_pages == self.target_pages


def _no_progress(_: int) -> None:
    """For callers who only want the result."""


class Ballooned(Generic[G]):
    """Device and guest together; a context manager that starts and ends both."""

    def __init__(self, make_guest: Callable[[Path], G], balloon: BalloonSettings) -> None:
        self._make_guest, self._balloon = make_guest, balloon
        self._stack = ExitStack()
        self._moved = Condition()
        self._target_pages, self._actual_pages, self._moved_at = 0, 0, 0.0
        self.device: DeviceControl
        self.guest: G

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            directory = stack.enter_context(PrivateDirectory("ballonet-"))
            path = directory / "device"
            sock = stack.enter_context(listening_socket(path))
            self.device = self._make_control(sock)
            self.device.subscribe(self._observe)
            stack.enter_context(serving(self.device.server))
            self.guest = self._make_guest(path)
            stack.enter_context(self.guest)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stack.close()

    def resize(
        self,
        target_pages: int,
        *,
        stalled_after_s: float,
        progress: Callable[[int], None] = _no_progress,
    ) -> Resized:
        """Ask for a balloon of `target_pages`; wait until it is there, and the host has its part.

        Ends too when nothing moves for so long.
        Units: 4 KiB balloon pages; `progress` is given `actual` a few times a second.
        Raises: GuestError, if the guest ends meanwhile.
        """
        started_s = time.monotonic()
        seconds, actual_pages = self._wait_for_guest(target_pages, stalled_after_s, progress)
        waiting_bytes = self._wait_for_host(stalled_after_s)
        return Resized(
            seconds=seconds,
            host_seconds=None if waiting_bytes else time.monotonic() - started_s,
            target_pages=target_pages,
            actual_pages=actual_pages,
            waiting_bytes=waiting_bytes,
        )

    def _make_control(self, sock: socket.socket) -> DeviceControl:
        return DeviceControl(make_server(self._balloon, sock, listening=True))

    def _wait_for_guest(
        self, target_pages: int, stalled_after_s: float, progress: Callable[[int], None]
    ) -> tuple[float, int]:
        """Seconds to the last move of `actual`, and where it stands. Raises: GuestError."""
        started_s = time.monotonic()
        with self._moved:
            self._target_pages, self._moved_at = target_pages, started_s
        self.device.set_target(target_pages)
        while True:
            with self._moved:
                if self._actual_pages != target_pages:
                    self._moved.wait(_PROGRESS_INTERVAL_S)
                actual_pages, moved_s = self._actual_pages, self._moved_at
            progress(actual_pages)
            if not self.guest.is_running:
                raise GuestError("the guest has ended while its balloon was to move")
            if actual_pages == target_pages or time.monotonic() - moved_s > stalled_after_s:
                return moved_s - started_s, actual_pages

    def _wait_for_host(self, stalled_after_s: float) -> int:
        """Have what waits dropped now; returns the bytes that still wait after a standstill."""
        self.device.expedite()
        least, moved_s = self.device.status().waiting_bytes, time.monotonic()
        while least and time.monotonic() - moved_s <= stalled_after_s:
            time.sleep(_SETTLE_INTERVAL_S)
            waiting_bytes = self.device.status().waiting_bytes
            if waiting_bytes < least:
                least, moved_s = waiting_bytes, time.monotonic()
        return least

    def _observe(self, fact: Fact) -> None:
        """Note what the driver says, on the device's thread."""
        if isinstance(fact, ActualChanged):
            with self._moved:
                self._actual_pages, self._moved_at = fact.actual_pages, time.monotonic()
                if self._actual_pages == self._target_pages:
                    self._moved.notify_all()


class BalloonedGuest(Ballooned[LinuxGuest]):
    """A real kernel with our device."""

    def __init__(self, guest: LinuxGuestSettings, balloon: BalloonSettings) -> None:
        super().__init__(lambda path: LinuxGuest(replace(guest, socket_path=path)), balloon)


class BalloonedEmbeddedGuest(Ballooned[EmbeddedGuest]):
    """The embedded guest with our device, each in a process of its own."""

    def __init__(self, guest: EmbeddedGuestSettings, balloon: BalloonSettings) -> None:
        super().__init__(lambda path: EmbeddedGuest(replace(guest, socket_path=path)), balloon)
