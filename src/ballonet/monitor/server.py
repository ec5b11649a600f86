"""The monitor's own thread: listening sockets, and the events that clients are told of.

Nothing here runs on the device's thread.
Not here: the protocol (qmp), the clients (clients.py).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event as Flag
from threading import Thread
from typing import Final

from ballonet.monitor.clients import Clients
from ballonet.monitor.cpu_budget import CpuBudget
from ballonet.monitor.outbox import Outbox
from ballonet.qmp.limiter import Event, EventLimiter
from ballonet.qmp.machine import Machine

__all__ = ["MonitorServer", "Watch"]

#: Looks at the machine now and then, and says what clients should hear of.
Watch = Callable[[], Sequence[Event]]

#: Events a guest can cause as often as it likes.
LIMITED: Final = frozenset({"BALLOON_CHANGE", "x-ballonet-device-broken", "x-ballonet-reporting"})
_WATCH_S: Final = 0.5
_PAUSE_S: Final = 0.02  # between two looks at what was posted
_STOP_S: Final = 5.0


class MonitorServer:
    """Serves a machine's monitor on sockets that listen; `start` and `stop` it."""

    def __init__(
        self,
        machine: Machine,
        sockets: Sequence[socket.socket],
        outbox: Outbox,
        watch: Watch = tuple,
    ) -> None:
        self._machine, self._sockets = machine, sockets
        self._outbox, self._watch = outbox, watch
        self._limiter = EventLimiter()
        self._ready = Flag()
        self._stop: Callable[[], object] = lambda: None
        self._thread = Thread(target=self._run, name="ballonet-monitor", daemon=True)

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Tell clients what was posted, hang up, and end the thread; safe to call again."""
        if self._thread.is_alive():
            self._stop()
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopping.set)
        clients = Clients(self._machine, CpuBudget())
        for sock in self._sockets:
            sock.settimeout(0)
        tasks = [loop.create_task(clients.accept(sock)) for sock in self._sockets]
        tasks.append(loop.create_task(self._pump(clients)))
        self._ready.set()
        await stopping.wait()
        for task in tasks:
            task.cancel()
        self._send_posted(clients)
        await clients.close()

    async def _pump(self, clients: Clients) -> None:
        """Send events as they may go out, and look at the machine now and then."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        while True:
            woken.clear()
            self._send_posted(clients)
            for event in self._watch():
                clients.broadcast(event)
            await asyncio.sleep(_PAUSE_S)
            self._outbox.call_when_posted(lambda: loop.call_soon_threadsafe(woken.set))
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), self._wait_s())

    def _send_posted(self, clients: Clients) -> None:
        now_ns = time.monotonic_ns()
        for event in self._outbox.take():
            ready = self._limiter.put(event, now_ns) if event.name in LIMITED else event
            if ready is not None:
                clients.broadcast(ready)
        for event in self._limiter.due(now_ns):
            clients.broadcast(event)

    def _wait_s(self) -> float:
        deadline_ns = self._limiter.deadline_ns
        if deadline_ns is None:
            return _WATCH_S
        return min(_WATCH_S, max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9))
