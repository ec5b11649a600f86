"""`ballonet top` in a terminal: rounds, keys and sizes at once, none of which waits for another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from ballonet.cli.top.painter import Painter
from ballonet.cli.top.rounds import Rounds
from ballonet.cli.top.rows import Row, Sort
from ballonet.cli.top.screen import Scene, screen_lines
from ballonet.cli.top.sizes import SizeRequests
from ballonet.cli.top.terminal import HANG_UP, Terminal, TerminalUser
from ballonet.cli.top.view import Ask, Quit, View
from ballonet.vms.this_host import look_at_this_host

__all__ = ["Live", "scene_now"]

_RECORDS_MOST: Final = 20


def scene_now(interval_s: float) -> Scene:
    """Our computer at this time of day."""
    return Scene(time.strftime("%H:%M:%S"), interval_s, look_at_this_host())


class Live:
    """Shown until somebody quits; `run` it once, in a running loop."""

    def __init__(self, rounds: Rounds, sort: Sort) -> None:
        self._rounds = rounds
        self._view, self._painter = View(sort), Painter()
        self._scene = scene_now(rounds.interval_s)
        self._rows: Sequence[Row] | None = None  # of the newest round
        self._sizes = SizeRequests(rounds.watch, self._hear)
        self._over, self._woken = asyncio.Event(), asyncio.Event()
        self._terminal = Terminal(TerminalUser(self._take_key, self._draw_anew, self._draw))

    async def run(self) -> None:
        """Raises: SystemCallError, if there is no terminal."""
        async with self._sizes:
            with _logged_afterwards(), self._terminal:
                self._draw()
                making = asyncio.ensure_future(self._make_rounds())
                leaving = asyncio.ensure_future(self._over.wait())
                try:
                    await asyncio.wait([making, leaving], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    making.cancel()
                    leaving.cancel()
                    await asyncio.wait([making, leaving])
                if not making.cancelled():
                    making.result()  # a bug

    async def _make_rounds(self) -> None:
        while True:
            if not self._view.paused:
                self._rows = await self._rounds.next()
                if self._rounds.watch.problem:
                    self._hear(self._rounds.watch.problem)
                self._scene = scene_now(self._rounds.interval_s)
                self._show_rows()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._view.paused else self._rounds.left_s):
                    await self._woken.wait()
            self._woken.clear()

    def _show_rows(self) -> None:
        if self._rows is not None:
            self._view.see(self._sizes.seen(self._rows))
        self._draw()

    def _take_key(self, key: str) -> None:
        was_paused = self._view.paused
        match self._view.feed(key) if key != HANG_UP else Quit():
            case Quit():
                self._over.set()
            case Ask(row, size_bytes):
                self._sizes.ask(row, size_bytes)
        if self._view.paused is not was_paused:
            self._woken.set()
        if key == "redraw":
            self._painter.forget()
        self._show_rows()

    def _hear(self, text: str) -> None:
        if text:
            self._view.message = text
        self._show_rows()

    def _draw_anew(self) -> None:
        self._painter.forget()
        self._draw()

    def _draw(self) -> None:
        """One that is not taken now is not late but left out: the newest comes when it can."""
        if not self._terminal.takes_more:
            return
        columns, lines = self._terminal.size
        data = self._painter.paint(screen_lines(self._view, self._scene, columns, lines), columns)
        if data:
            self._terminal.write(data)


class _Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: deque[logging.LogRecord] = deque(maxlen=_RECORDS_MOST)

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


@contextmanager
def _logged_afterwards() -> Iterator[None]:
    """What would be written across the screen is written below it, once that is gone."""
    root, records = logging.getLogger(), _Records()
    handlers, root.handlers = root.handlers, [records]
    try:
        yield
    finally:
        root.handlers = handlers
        for record in records.kept:
            root.handle(record)
