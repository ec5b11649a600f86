"""The clients of a monitor: one task each, on the monitor's loop.

A client that floods is read slowly, one that does not read is cut off, one too many is turned away.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from ballonet.monitor.cpu_budget import CpuBudget
from ballonet.qmp.commands import Command
from ballonet.qmp.limiter import Event
from ballonet.qmp.session import ServerSession

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

    def __init__(self, machine: object, commands: Mapping[str, Command], budget: CpuBudget) -> None:
        self._machine, self._commands, self._budget = machine, commands, budget
        self.somebody: Final = asyncio.Event()  #: set while there are clients
        self._writers: dict[ServerSession, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, sock: socket.socket) -> None:
        """Serve everyone who connects to a listening socket, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(sock)
            except OSError as error:
                _log.warning("a monitor client could not be accepted: %s", error.strerror)
                await asyncio.sleep(_ACCEPT_AGAIN_S)
                continue
            if len(self._tasks) >= CLIENTS_MAX:
                connection.close()
            else:
                task = loop.create_task(self._serve(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await self._budget.pay()

    def broadcast(self, event: Event) -> None:
        """Tell everyone who has negotiated."""
        for session, writer in list(self._writers.items()):
            data = session.event(event)
            if data is not None:
                _write(writer, data)

    async def close(self) -> None:
        """Hang up on everyone, after what was sent has gone out."""
        for writer in self._writers.values():
            writer.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_S)
            for task in late:
                task.cancel()

    async def _serve(self, connection: socket.socket) -> None:
        """One client, from its greeting to its end."""
        reader, writer = await asyncio.open_connection(sock=connection, limit=_READ_BYTES)
        session = ServerSession(self._machine, self._commands)
        self._writers[session] = writer
        self.somebody.set()
        try:
            _write(writer, session.greeting())
            while data := await reader.read(_READ_BYTES):
                for reply in session.feed(data):
                    _write(writer, reply if isinstance(reply, bytes) else await reply)
                await self._budget.pay()
        except OSError:
            pass  # the client is gone
        except Exception:  # a bug of ours must not reach other clients, nor the device
            _log.exception("this is a bug in ballonet; the monitor client is cut off")
        finally:
            del self._writers[session]
            if not self._writers:
                self.somebody.clear()
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send without waiting; a client that has left too much unread is cut off."""
    transport = writer.transport
    if transport.is_closing():
        return
    if transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
        transport.abort()
    else:
        writer.write(data)
