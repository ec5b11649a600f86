"""The back-end: one balloon device, served to one front-end after another.

Everything runs on the thread that calls `run`; the other methods may be called from any thread.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Thread
from typing import Final

from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.device.counters import Counters
from ballonet.device.effects import Effect, Event
from ballonet.errors import SettingsError
from ballonet.vhost_user.connection import Connection
from ballonet.vhost_user.event_loop import EventLoop
from ballonet.virtio.features import Feature
from ballonet.virtio.stats import StatsSample

__all__ = ["DeviceServer", "Snapshot", "serving"]

_ASK_TIMEOUT_S: Final = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known about the device at one moment."""

    connected: bool
    negotiated: Feature
    target_pages: int
    actual_pages: int
    guest_bytes: int  #: memory the front-end shares with us
    held_bytes: int  #: host memory that stands behind it now, measured
    counters: Counters
    sample: StatsSample | None


def _ignore(_: Event) -> None:
    """For servers nobody observes."""


class DeviceServer:
    """Owns the socket it is given; `listening` says whether front-ends still have to connect."""

    def __init__(
        self,
        settings: BalloonSettings,
        sock: socket.socket,
        *,
        listening: bool,
        observe: Callable[[Event], None] = _ignore,
    ) -> None:
        self._balloon = Balloon(settings)
        self._loop = EventLoop()
        self._sock, self._observe = sock, observe
        self._connection: Connection | None = None
        self._listening = listening
        if listening:
            sock.settimeout(0)
            self._loop.register(sock.fileno(), self._accept)
        else:
            self._connect(sock)

    def run(self) -> None:
        """Serve until stopped or, with a connected socket, until the front-end leaves."""
        try:
            self._loop.run(self._work)
        finally:
            if self._connection is not None:
                self._connection.close()
            self._loop.close()

    def stop(self) -> None:
        """Let `run` return; may be called from a signal handler."""
        self._loop.stop()

    def set_target(self, target_pages: int) -> None:
        """Ask the guest for a balloon of this many balloon pages; returns at once.

        Raises: SettingsError, unless it fits the 32 bits of `num_pages`.
        """
        if not 0 <= target_pages < 1 << 32:
            raise SettingsError("target", target_pages, "0 to 2**32 - 1 pages of 4 KiB")
        self._loop.post(lambda: self._set_target(target_pages))

    def request_stats(self) -> None:
        """Ask the guest for a fresh statistics sample; returns at once."""
        self._loop.post(self._request_stats)

    def snapshot(self) -> Snapshot:
        """Look at the device. Raises: TimeoutError, if it does not run."""
        return self._loop.ask(self._look, _ASK_TIMEOUT_S)

    def _set_target(self, target_pages: int) -> None:
        self._perform(self._balloon.set_target(target_pages))

    def _request_stats(self) -> None:
        self._perform(self._balloon.request_stats())

    def _perform(self, effects: Iterator[Effect]) -> None:
        """Obey effects of the device; with no front-end it is suspended and has none."""
        if self._connection is not None:
            self._connection.obey(effects)
        else:
            for effect in effects:
                raise AssertionError(f"a suspended device asked for {effect}")

    def _look(self) -> Snapshot:
        memory = self._connection.memory if self._connection else None
        return Snapshot(
            connected=self._connection is not None,
            negotiated=self._balloon.negotiated,
            target_pages=self._balloon.target_pages,
            actual_pages=self._balloon.actual_pages,
            guest_bytes=memory.total_bytes if memory else 0,
            held_bytes=memory.held_bytes() if memory else 0,
            counters=replace(self._balloon.counters),
            sample=self._balloon.statistics.sample,
        )

    def _work(self) -> bool:
        return self._connection is not None and self._connection.work()

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            _log.warning("a front-end could not be accepted: %s", error.strerror)
            return
        if self._connection is not None:
            _log.warning("a second front-end was turned away: this device has one already")
            sock.close()
            return
        self._connect(sock)

    def _connect(self, sock: socket.socket) -> None:
        _log.info("front-end connected")
        self._connection = Connection(
            self._loop, sock, self._balloon, observe=self._observe, ended=self._disconnected
        )

    def _disconnected(self) -> None:
        _log.info("front-end disconnected")
        self._connection = None
        if not self._listening:
            self._loop.stop()


@contextmanager
def serving(server: DeviceServer) -> Iterator[DeviceServer]:
    """Run the server on a thread of its own inside the block."""
    thread = Thread(target=server.run, name="ballonet-queues", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
