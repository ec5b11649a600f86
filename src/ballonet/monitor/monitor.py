"""One machine's monitor: its sockets, its clients, and the events they are told of.

It runs on the loop it is begun on, whoever that loop belongs to.  While nobody is connected it
sleeps, and what happens is not kept.
Not here: the protocol (qmp), a thread of its own (server.py).
"""

from __future__ import annotations

import asyncio
import logging
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
from ballonet.qmp.session import ServerSession
from ballonet.qmp.version import NEWEST, QemuVersion

__all__ = ["Monitor", "Watch"]

#: Looks at the machine now and then, and says what clients should hear of.
Watch = Callable[[], Sequence[Event]]

#: Events a guest can cause as often as it likes.
LIMITED: Final = frozenset(
    {
        "BALLOON_CHANGE",
        "HV_BALLOON_STATUS_REPORT",
        "x-ballonet-device-broken",
        "x-ballonet-reporting",
    }
)
#: Nothing comes after it, so what still waits goes before it.
LAST: Final = "SHUTDOWN"
_WATCH_S: Final = 0.5
_PAUSE_S: Final = 0.02  # between two looks at what was posted
_log = logging.getLogger(__name__)


class Monitor:
    """Sockets that listen, and what their clients may ask of a machine."""

    def __init__(
        self,
        machine: object,
        sockets: Sequence[socket.socket],
        outbox: Outbox,
        watch: Watch = tuple,
        commands: Mapping[str, Command] = COMMANDS,
        version: QemuVersion = NEWEST,
        budget: CpuBudget | None = None,
    ) -> None:
        """`budget`: None, unless its clock is not that of the thread it runs on."""
        self._sockets, self._outbox, self._watch = sockets, outbox, watch
        self._limiter = EventLimiter()
        self._clients = Clients(
            lambda: ServerSession(machine, commands, _report_bug, version),
            self._clients_changed,
            budget or CpuBudget(),
        )
        self._stirred: asyncio.Event | None = None  # made on the loop it is for
        self._pump_task: asyncio.Task[None] | None = None
        self._is_ending = False

    def begin(self) -> None:
        """Serve from now on; on a running loop. Whoever made the sockets closes them."""
        self._stirred = asyncio.Event()
        self._pump_task = asyncio.get_running_loop().create_task(self._pump(self._stirred))
        for sock in self._sockets:
            sock.settimeout(0)
            self._clients.listen(sock)

    async def end(self) -> None:
        """Tell clients what was posted, and hang up; when this returns all are gone."""
        self._is_ending = True
        if self._pump_task is not None:
            self._stir()
            await asyncio.wait({self._pump_task})
        self._tell_posted(time.monotonic_ns())
        self._tell_late()
        self._outbox.close()
        await self._clients.close()

    @property
    def is_idle(self) -> bool:
        """Nobody is connected."""
        return not self._clients

    def _clients_changed(self) -> None:
        if self.is_idle:
            self._outbox.close()
        else:
            self._outbox.open()
        self._stir()

    def _stir(self) -> None:
        if self._stirred is not None:
            self._stirred.set()

    async def _pump(self, stirred: asyncio.Event) -> None:
        """Send events as they may go out, and look at the machine now and then.

        It ends by itself when the monitor does: a task that is cancelled while it waits for two
        things may take the one for the other.
        """
        while not self._is_ending:
            stirred.clear()
            if self.is_idle:
                await stirred.wait()
                continue
            try:
                self._tell()
            except Exception:  # clients are served without events
                _log.exception("this is a bug in ballonet; events of a monitor are lost")
            await self._sleep(stirred)

    async def _sleep(self, stirred: asyncio.Event) -> None:
        """Until something is posted, or it is time to look; a moment at least."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._wait_s(), stirred.set)

        def wake() -> None:  # on the thread of whoever posts
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(stirred.set)

        self._outbox.call_when_posted(wake)
        await stirred.wait()
        timer.cancel()
        if not self._is_ending:
            await asyncio.sleep(_PAUSE_S)

    def _tell(self) -> None:
        now_ns = time.monotonic_ns()
        self._tell_posted(now_ns)
        for event in (*self._limiter.due(now_ns), *self._watch()):
            self._clients.broadcast(event)

    def _tell_posted(self, now_ns: int) -> None:
        for event in self._outbox.take():
            if event.name == LAST:
                self._tell_late()
            ready = self._limiter.put(event, now_ns) if event.name in LIMITED else event
            if ready is not None:
                self._clients.broadcast(ready)

    def _tell_late(self) -> None:
        """The last of each kind that had to wait, with what it said then."""
        for event in self._limiter.rest():
            self._clients.broadcast(event)

    def _wait_s(self) -> float:
        deadline_ns = self._limiter.deadline_ns
        if deadline_ns is None:
            return _WATCH_S
        return min(_WATCH_S, max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9))


def _report_bug(error: Exception) -> None:
    _log.error("this is a bug in ballonet; the command is answered with an error", exc_info=error)
