"""The agent of a host: rounds of observations, told to whoever takes them, until it is ended.

    SIGHUP           the configuration is read anew; one that is wrong is refused, the old one stays
    SIGTERM, SIGINT  what was changed of any guest is put back, within seconds

Units: seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any, Final, Protocol

from ballonet.agent.asked_file import AskedFile
from ballonet.agent.autopilot.autopilot import Autopilot
from ballonet.agent.autopilot.metrics import AutopilotMetrics
from ballonet.agent.commands import agent_commands
from ballonet.agent.configuration import Configuration
from ballonet.agent.metrics import Metrics
from ballonet.agent.news import News
from ballonet.agent.only_agent import CONTROL_NAME, OnlyAgent
from ballonet.agent.past import Past
from ballonet.agent.round import Round, Taker
from ballonet.agent.rounds import Rounds
from ballonet.agent.server import MetricsServer
from ballonet.errors import BallonetError, SettingsError
from ballonet.monitor.monitor import Monitor
from ballonet.monitor.outbox import Outbox
from ballonet.runtime.sd_notify import reloading, sd_notify, watchdog_s
from ballonet.vhost_user.listener import listening_socket
from ballonet.vms.poll_keeper import PollKeeper

__all__ = ["Agent"]

#: Periods without a round after which it is not well.
_PERIODS: Final = 3
#: What the first round may take: finding machines, and their answers.
_FIRST_S: Final = 20.0
_log = logging.getLogger(__name__)


class Page(Protocol):
    """What people look at in a browser; it needs more than the rest."""

    @property
    def url(self) -> str:
        """Where."""
        ...

    def take(self, one: Round) -> None:
        """The newest round."""
        ...

    async def close(self) -> None:
        """Serve no more."""
        ...


class Agent:
    """`run` it, once."""

    def __init__(self, read: Callable[[], Configuration], directory: Path) -> None:
        """`read`: the configuration, now and after each HUP; no other agent is in `directory`.

        Raises: SettingsError.
        """
        self._read, self._configuration, self._directory = read, read(), directory
        self._metrics, self._news = Metrics(), News()
        self._takers: tuple[Taker, ...] = (self._note, self._tell_news, self._metrics.take)
        self._autopilot: Autopilot
        self._past = Past(directory)
        self._web: Page | None = None
        self._numbers = count(1)
        self._well_until_s = 0.0
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._asked_file = AskedFile(directory)
        self._ending: set[asyncio.Future[None]] = set()  # what puts intervals back

    def run(self, ready: Callable[[str], None]) -> None:
        """Watch until a signal ends it; `ready` is told where the metrics are.

        Raises: SettingsError, SystemCallError, ListenError.
        """
        with OnlyAgent(self._directory):
            self._autopilot = Autopilot(self._configuration.autopilot, self._directory)
            self._takers += (self._autopilot.take, self._past.take, self._show)
            self._metrics.registry.register(AutopilotMetrics(self._autopilot))
            with listening_socket(self._directory / CONTROL_NAME) as control:
                asyncio.run(self._serve(ready, control))

    async def _serve(self, ready: Callable[[str], None], control: socket.socket) -> None:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signals.put_nowait, number)
        self._server = self._begun_server(self._configuration)
        self._web = await self._begun_page(self._configuration)
        self._rounds = self._begun_rounds(self._configuration)
        self._put_back_what_was_left()
        watchdog = asyncio.ensure_future(self._feed_watchdog())
        commands = agent_commands(self._past)
        monitor = Monitor(self._autopilot, [control], Outbox(), commands=commands)
        monitor.begin()
        try:
            ready(self._server.url)
            self._say_where_the_page_is()
            sd_notify("READY=1")
            await self._obey_signals()
        finally:
            sd_notify("STOPPING=1")
            watchdog.cancel()
            self._spawn(self._rounds.end())
            self._spawn(self._autopilot.close())
            self._spawn(monitor.end())
            if self._web is not None:
                self._spawn(self._web.close())
            await asyncio.gather(*self._ending)
            self._asked_file.note(0, ())
            self._server.close()

    async def _obey_signals(self) -> None:
        """Until one ends the agent. Raises: whatever ended the rounds, which is a fault of ours."""
        while True:
            told = asyncio.ensure_future(self._signals.get())
            rounds = self._rounds.task
            await asyncio.wait([told, rounds], return_when=asyncio.FIRST_COMPLETED)
            if not told.done():
                told.cancel()
                rounds.result()
            elif told.result() is not signal.SIGHUP:
                return
            else:
                reloading()
                await self._reload()
                sd_notify("READY=1")

    async def _reload(self) -> None:
        """Take the configuration as it is now, all of it or nothing."""
        old = self._configuration
        try:
            new = self._read()
            server, page = self._server, self._web
            if new.web != old.web:
                page = await self._begun_page(new)
            if new.metrics != old.metrics:
                server = self._begun_server(new)
        except BallonetError as error:
            self._metrics.configuration_is_taken = False
            _log.error("the new configuration is refused, the old one stays: %s", error)
            return
        self._metrics.configuration_is_taken = True
        self._configuration = new
        self._autopilot.configure(new.autopilot)
        if page is not self._web:
            if self._web is not None:
                self._spawn(self._web.close())
            self._web = page
            self._say_where_the_page_is()
        if server is not self._server:
            self._server.close()
            self._server = server
        if new.agent != old.agent:
            # The next rounds see what is put back beside them, and change it where they have to.
            self._spawn(self._rounds.end())
            self._rounds = self._begun_rounds(new)
        _log.info("the configuration is read again; metrics are at %s", server.url)

    def _begun_server(self, configuration: Configuration) -> MetricsServer:
        """Raises: ListenError."""
        server = MetricsServer(configuration.metrics.listen, self._metrics.registry, self._is_well)
        server.begin()
        return server

    async def _begun_page(self, configuration: Configuration) -> Page | None:
        """Raises: ListenError, SettingsError."""
        if not configuration.web.listen:
            return None
        try:
            from ballonet.agent.web.made_server import made_server  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            if error.name != "aiohttp":
                raise
            wanted = "nothing, or aiohttp: pip install 'ballonet[web]'"
            raise SettingsError("[web] listen", configuration.web.listen, wanted) from error
        page = made_server(configuration.web, self._autopilot, self._past, self._directory)
        await page.begin()
        return page

    def _say_where_the_page_is(self) -> None:
        if self._web is not None:
            _log.info("the page is at %s", self._web.url)

    def _show(self, one: Round) -> None:
        if self._web is not None:
            self._web.take(one)

    def _begun_rounds(self, configuration: Configuration) -> Rounds:
        self._well_until_s = time.monotonic() + _FIRST_S
        note = self._asked_file.note
        return Rounds(configuration.agent, self._takers, self._numbers, note, self._autopilot)

    def _put_back_what_was_left(self) -> None:
        """By an agent that was killed."""
        interval_s, machines = self._asked_file.left()
        keeper = PollKeeper(interval_s)
        keeper.adopt(machines)
        self._spawn(keeper.put_back())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that ends by itself, and is waited for at the end."""
        task = asyncio.ensure_future(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _note(self, one: Round) -> None:
        self._well_until_s = one.ended_s + _PERIODS * one.period_s

    def _tell_news(self, one: Round) -> None:
        for line in self._news.of(one):
            _log.info("%s", line)

    def _is_well(self) -> bool:
        return time.monotonic() <= self._well_until_s

    async def _feed_watchdog(self) -> None:
        limit_s = watchdog_s(os.environ)
        while limit_s is not None:
            if self._is_well():
                sd_notify("WATCHDOG=1")
            await asyncio.sleep(limit_s / 3)
