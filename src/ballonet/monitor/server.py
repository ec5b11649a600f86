"""The thread of the monitors: any number of them, on one loop.

Nothing here runs on the devices' thread.
Not here: what a monitor does (monitor.py).
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread, current_thread
from typing import Final

from ballonet.errors import SystemCallError
from ballonet.monitor.monitor import Monitor

__all__ = ["MonitorServer"]

_STOP_S: Final = 5.0


class MonitorServer:
    """Serves monitors; `start` and `stop` it."""

    def __init__(self) -> None:
        self._monitors: set[Monitor] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._ready: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread = Thread(target=self._run, name="ballonet-monitor", daemon=True)

    def start(self) -> None:
        """Serve from now on. Raises: SystemCallError, as when there are too many open files."""
        self._thread.start()
        try:
            self._ready.result()
        except OSError as error:
            reason = error.strerror or str(error)
            raise SystemCallError("starting", "the monitor's thread", reason) from error

    def stop(self) -> None:
        """End every monitor, and the thread; safe to call again."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_STOP_S)

    def add(self, monitor: Monitor) -> None:
        """Serve one more."""
        self._call(lambda: self._begin(monitor))

    def remove(self, monitor: Monitor, ended: Callable[[], None]) -> None:
        """Serve one less; `ended` is called on the thread of the monitors, when all are gone."""

        def begin() -> None:
            task = asyncio.ensure_future(self._end(monitor))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            task.add_done_callback(lambda _: ended())

        self._call(begin)

    def _call(self, action: Callable[[], None]) -> None:
        """Do something on the thread of the monitors: at once, if this is it."""
        loop = self._loop
        if loop is None or not self._thread.is_alive():
            return
        if current_thread() is self._thread:
            action()
        else:
            loop.call_soon_threadsafe(action)

    def _begin(self, monitor: Monitor) -> None:
        self._monitors.add(monitor)
        monitor.begin()

    async def _end(self, monitor: Monitor) -> None:
        self._monitors.discard(monitor)
        await monitor.end()

    def _run(self) -> None:
        try:
            _check_descriptors()
            asyncio.run(self._serve())
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set_result(None)
        await self._stopping.wait()
        await asyncio.gather(*(self._end(one) for one in list(self._monitors)), *self._ending)


def _check_descriptors() -> None:
    """Raises: OSError, where no loop can be made: a half-made one complains by itself later."""
    one, other = socket.socketpair()
    with one, other, select.epoll():
        pass
