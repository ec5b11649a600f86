"""A host: balloon devices for many guests, a process for each, and the one that watches them.

    DIRECTORY/host.qmp      the host's own monitor: guests come and go
    DIRECTORY/host.json     its list of guests
    DIRECTORY/NAME.sock     vhost-user socket of a guest
    DIRECTORY/NAME.qmp      its monitor
    DIRECTORY/NAME.state    what its device must know after a restart

The supervisor, which is this process, maps no guest's memory and reads no message of a guest, its
VMM or its monitor's clients.  It has one thread, so that it can fork.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, TypeVar

from ballonet.control.status import Status
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import BallonetError, SettingsError, SystemCallError
from ballonet.host.directory import CONTROL_NAME, HostDirectory
from ballonet.host.guest_list import GuestList, check_memory, check_name
from ballonet.host.guest_process import GuestProcess
from ballonet.host.guest_rows import listed, observed
from ballonet.host.warm_up import warm_up
from ballonet.host.worker import WorkerSettings
from ballonet.host.worker_status import PollChange
from ballonet.monitor.monitor import Monitor
from ballonet.monitor.outbox import Outbox
from ballonet.qmp.host_commands import HOST_COMMANDS
from ballonet.qmp.version import NEWEST, QemuVersion
from ballonet.runtime.sandbox import Sandbox
from ballonet.vhost_user.listener import listening_socket

__all__ = ["Host"]

#: How long a guest that does not answer holds up a list of all.
_ASK_S: Final = 1.0
_log = logging.getLogger(__name__)
T = TypeVar("T")


class _Guest:
    """A worker and the sockets it serves."""

    def __init__(self, process: GuestProcess, sockets: ExitStack) -> None:
        self.process, self.sockets = process, sockets


class Host:
    """A `HostMachine`; `run` it."""

    def __init__(
        self,
        path: Path,
        settings: BalloonSettings,
        sandbox: Sandbox | None,
        version: QemuVersion = NEWEST,
    ) -> None:
        """`version`: the QEMU that the guests' monitors speak as."""
        self._directory, self._settings, self._sandbox = HostDirectory(path), settings, sandbox
        self._version = version
        self._list = GuestList(path / "host.json")
        self._memory: dict[str, int | None] = {}  # the list as it stands in the file
        self._guests: dict[str, _Guest] = {}
        self._outbox = Outbox()
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Future[None]] = set()

    def run(self, listening: Callable[[Path], None]) -> None:
        """Serve until a signal or a client ends it; `listening` is called when it serves.

        Raises: ListenError, SettingsError.
        """
        with self._directory:
            warm_up(self._settings, self._directory.path)
            asyncio.run(self._serve(listening))

    def quit(self) -> None:
        """Let `run` return."""
        self._stopping.set()

    async def add_guest(self, name: str, memory_bytes: int | None) -> dict[str, object]:
        """Serve one more; returns its row. Raises: SettingsError, SystemCallError."""
        check_name(name)
        check_memory(name, memory_bytes)
        if name in self._memory or name in self._guests:
            raise SettingsError("name of a guest", name, "one that is not in use")
        guest = self._make(name, memory_bytes)
        try:
            self._directory.forget(name)
            self._list.save(self._memory | {name: memory_bytes})
            guest.process.start()
        except BallonetError:
            guest.sockets.close()
            with suppress(SystemCallError):
                self._list.save(self._memory)
            raise
        self._memory[name], self._guests[name] = memory_bytes, guest
        return listed(self._directory, guest.process, await guest.process.ask(_ASK_S))

    async def remove_guest(self, name: str) -> None:
        """Hang up on a guest's VMM and forget the guest; returns when all of it is gone.

        Raises: SettingsError, SystemCallError; the guest is served on then.
        """
        if name not in self._memory:
            raise SettingsError("name of a guest", name, "one of this host's; see `list`")
        self._list.save({one: size for one, size in self._memory.items() if one != name})
        del self._memory[name]
        # A client that leaves does not stop what it began.
        await asyncio.shield(self._begin(self._remove(name)))

    async def guests(self) -> list[dict[str, object]]:
        """A row for each, by name; sizes in bytes, None: unknown."""
        return [listed(self._directory, *one) for one in await self._ask_all()]

    async def observe_guests(self) -> list[dict[str, object]]:
        """Everything that each guest's balloon tells, by name; None: unknown."""
        asked = await self._ask_all()
        now_ns = time.monotonic_ns()
        return [observed(self._directory, *one, now_ns) for one in asked]

    async def change_polling(
        self, interval_s: int, instead_of_s: int, names: Collection[str] | None
    ) -> list[str]:
        """Have guests asked for statistics so often; returns who is.

        `instead_of_s`: whoever is asked at another interval goes on so.  None: all guests.
        """
        change = PollChange(interval_s, instead_of_s)
        wanted = [
            guest.process for name, guest in self._guests.items() if names is None or name in names
        ]
        answers = await asyncio.gather(*(one.change_polling(change, _ASK_S) for one in wanted))
        return [
            process.settings.name
            for process, status in zip(wanted, answers, strict=True)
            if status is not None and status.poll_interval_s == interval_s
        ]

    async def _ask_all(self) -> list[tuple[GuestProcess, Status | None]]:
        processes = [guest.process for _, guest in sorted(self._guests.items())]
        answers = await asyncio.gather(*(process.ask(_ASK_S) for process in processes))
        return list(zip(processes, answers, strict=True))

    async def _serve(self, listening: Callable[[Path], None]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stopping.set)
        self._memory = self._list.load()
        self._directory.sweep(self._memory)
        control_path = self._directory.path / CONTROL_NAME
        with listening_socket(control_path) as control:
            monitor = Monitor(self, [control], self._outbox, commands=HOST_COMMANDS)
            try:
                await self._start_all()
                monitor.begin()
                listening(control_path)
                await self._stopping.wait()
            finally:
                await asyncio.gather(*(self._end(guest) for guest in self._guests.values()))
                await monitor.end()

    async def _start_all(self) -> None:
        """Start what the list names; a guest that cannot be served is said, and the others are."""
        for name, memory_bytes in self._memory.items():
            try:
                with ExitStack() as undo:
                    guest = self._make(name, memory_bytes)
                    undo.callback(guest.sockets.close)
                    guest.process.start()
                    undo.pop_all()
            except BallonetError as error:
                _log.error("%s is not served: %s", name, error)
                continue
            self._guests[name] = guest
            await asyncio.sleep(0)  # signals are heard meanwhile

    def _make(self, name: str, memory_bytes: int | None) -> _Guest:
        """A guest that is not started yet. Raises: SystemCallError."""
        with ExitStack() as stack:
            try:
                sock = stack.enter_context(listening_socket(self._directory.file(name, "sock")))
                qmp = stack.enter_context(listening_socket(self._directory.file(name, "qmp")))
            except OSError as error:  # too many open files
                raise SystemCallError("adding", name, error.strerror or str(error)) from error
            settings = WorkerSettings(
                name,
                memory_bytes,
                self._settings,
                self._directory.file(name, "state"),
                self._sandbox,
                sock,
                qmp,
                self._directory.fd,
                self._version,
            )
            return _Guest(GuestProcess(settings, self._worker_ended), stack.pop_all())

    def _worker_ended(self, name: str, reason: str, pause_s: float | None) -> None:
        """A worker has ended, and nobody here has told it to."""
        if pause_s is None:
            self._begin(self._quit_guest(name))
            return
        _log.warning("the device of %s: %s; started again in %g s", name, reason, pause_s)
        data: dict[str, object] = {"name": name, "reason": reason, "pause": pause_s}
        self._outbox.post("x-ballonet-guest-restarting", lambda: data)

    async def _quit_guest(self, name: str) -> None:
        """A client of the guest's monitor wanted its device to end."""
        try:
            await self.remove_guest(name)
        except BallonetError as error:  # it is there again at the next start
            _log.warning("%s", error)
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        guest = self._guests.get(name)
        if guest is not None:
            await self._end(guest)
            del self._guests[name]
        with suppress(SystemCallError):  # swept at the next start
            self._directory.forget(name)

    async def _end(self, guest: _Guest) -> None:
        await guest.process.end()
        guest.sockets.close()

    def _begin(self, work: Awaitable[None]) -> asyncio.Future[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
