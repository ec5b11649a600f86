"""The clients of a monitor: one task each, on the loop they were begun on.

A client that floods is read slowly, one that does not read is cut off, one too many is turned away.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ballonet.monitor.cpu_budget import Account, CpuBudget
from ballonet.qmp.limiter import Event
from ballonet.qmp.session import Reply, ServerSession

__all__ = ["CLIENTS_MAX", "Clients"]

CLIENTS_MAX: Final = 64
#: Bytes a client may leave unread before it is cut off.
UNREAD_BYTES_MAX: Final = 1 << 20
#: Read at a time: bounds the work between two looks at the budget.
_READ_BYTES: Final = 1024
_CLOSE_S: Final = 1.0
_ACCEPT_AGAIN_S: Final = 0.5  # after a refusal of the system, as when descriptors run out
_log = logging.getLogger(__name__)


class Clients:
    """All clients of one machine's monitor."""

    def __init__(
        self,
        sessions: Callable[[], ServerSession],
        changed: Callable[[], None],
        budget: CpuBudget,
    ) -> None:
        """`sessions` makes one for each; `changed` is called when a client has come or gone."""
        self._sessions, self._changed = sessions, changed
        self._budget = budget
        self._strangers = self._budget.account()  # pays for those who come, and for who has left
        self._listening: dict[socket.socket, asyncio.TimerHandle | None] = {}
        self._writers: dict[ServerSession, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        """Whether anyone is there."""
        return bool(self._writers)

    def listen(self, sock: socket.socket) -> None:
        """Serve everyone who connects to a socket that does not block."""
        self._listening[sock] = None
        asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def broadcast(self, event: Event) -> None:
        """Tell everyone who has negotiated."""
        for session, writer in list(self._writers.items()):
            data = session.event(event)
            if data is not None:
                _write(writer, data)

    async def close(self) -> None:
        """Listen no more, and hang up on everyone, after what was sent has gone out."""
        for sock in list(self._listening):
            self._ignore(sock)
            del self._listening[sock]
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        for writer in self._writers.values():
            writer.transport.abort()  # it does not read what was sent, and has had its time
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)

    def _accept(self, sock: socket.socket) -> None:
        """Somebody waits to be let in, and may have to wait longer."""
        wait_s = self._strangers.wait_s()
        if wait_s:
            self._listen_again_in(sock, wait_s)
            return
        with self._strangers.paying():
            try:
                connection, _ = sock.accept()
            except BlockingIOError:
                return  # it has left again
            except OSError as error:
                _log.warning("a monitor client could not be accepted: %s", error.strerror)
                self._listen_again_in(sock, _ACCEPT_AGAIN_S)
                return
            if len(self._tasks) >= CLIENTS_MAX:
                connection.close()
            else:
                task = asyncio.get_running_loop().create_task(self._serve(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _listen_again_in(self, sock: socket.socket, wait_s: float) -> None:
        self._ignore(sock)
        self._listening[sock] = asyncio.get_running_loop().call_later(wait_s, self.listen, sock)

    def _ignore(self, sock: socket.socket) -> None:
        timer = self._listening[sock]
        if timer is not None:
            timer.cancel()
        asyncio.get_running_loop().remove_reader(sock)

    async def _serve(self, connection: socket.socket) -> None:
        """One client, from its greeting to its end."""
        reader, writer = await asyncio.open_connection(sock=connection, limit=_READ_BYTES)
        session = self._sessions()
        account = self._budget.account()
        self._writers[session] = writer
        self._changed()
        try:
            _write(writer, session.greeting())
            while data := await reader.read(_READ_BYTES):
                await _execute(session, data, writer, account)
        except OSError:
            pass  # the client is gone
        except Exception:  # a bug of ours must not reach other clients, nor the device
            _log.exception("this is a bug in ballonet; the monitor client is cut off")
        finally:
            await self._say_goodbye(session, account)

    async def _say_goodbye(self, session: ServerSession, account: Account) -> None:
        writer = self._writers[session]
        self._strangers.spend(account.leave())  # who comes again at once has no new burst
        writer.close()
        try:
            with suppress(OSError):
                await writer.wait_closed()
        except asyncio.CancelledError:  # the end, and it has not read what was sent before
            writer.transport.abort()
            raise
        finally:
            del self._writers[session]
            self._changed()


async def _execute(
    session: ServerSession, data: bytes, writer: asyncio.StreamWriter, account: Account
) -> None:
    """Answer what is complete now, at the pace the client can afford."""
    replies = iter(session.feed(data))
    while True:
        with account.paying():
            reply: Reply | None = next(replies, None)
            if isinstance(reply, bytes):
                _write(writer, reply)
        if reply is None:
            break
        if not isinstance(reply, bytes):
            _write(writer, await reply)
        await _pause(account)
    await asyncio.sleep(0)
    await _pause(account)


async def _pause(account: Account) -> None:
    """Wait while the client is in debt."""
    while wait_s := account.wait_s():
        await asyncio.sleep(wait_s)


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send without waiting; a client that has left too much unread is cut off."""
    transport = writer.transport
    if transport.is_closing():
        return
    if transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
        transport.abort()
    else:
        writer.write(data)
