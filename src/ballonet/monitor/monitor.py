"""One machine's monitor: its sockets, its clients, and the events they are told of.

While nobody is connected it sleeps, and what happens is not kept.
Not here: the protocol (qmp), the thread it runs on (server.py).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from ballonet.monitor.clients import Clients
from ballonet.monitor.cpu_budget import CpuBudget
from ballonet.monitor.outbox import Outbox
from ballonet.qmp.commands import COMMANDS, Command
from ballonet.qmp.limiter import Event, EventLimiter

__all__ = ["Monitor", "Watch"]

#: Looks at the machine now and then, and says what clients should hear of.
Watch = Callable[[], Sequence[Event]]

#: Events a guest can cause as often as it likes.
LIMITED: Final = frozenset({"BALLOON_CHANGE", "x-ballonet-device-broken", "x-ballonet-reporting"})
_WATCH_S: Final = 0.5
_PAUSE_S: Final = 0.02  # between two looks at what was posted


class Monitor:
    """Sockets that listen, and what their clients may ask of a machine."""

    def __init__(
        self,
        machine: object,
        sockets: Sequence[socket.socket],
        outbox: Outbox,
        watch: Watch = tuple,
        commands: Mapping[str, Command] = COMMANDS,
    ) -> None:
        self._machine, self._sockets, self._commands = machine, sockets, commands
        self._outbox, self._watch = outbox, watch
        self._limiter = EventLimiter()
        self._clients: Clients | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, budget: CpuBudget) -> None:
        """Serve from now on; on the loop of the monitors."""
        loop = asyncio.get_running_loop()
        self._clients = Clients(self._machine, self._commands, budget)
        for sock in self._sockets:
            sock.settimeout(0)
            self._tasks.append(loop.create_task(self._clients.accept(sock)))
        self._tasks.append(loop.create_task(self._pump(self._clients)))

    async def end(self) -> None:
        """Tell clients what was posted, and hang up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._clients is not None:
            self._send_posted(self._clients)
            await self._clients.close()

    async def _pump(self, clients: Clients) -> None:
        """Send events as they may go out, and look at the machine now and then."""
        while True:
            self._outbox.close()
            await clients.somebody.wait()
            self._outbox.open()
            while clients.somebody.is_set():
                await self._pump_once(clients)

    async def _pump_once(self, clients: Clients) -> None:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
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
