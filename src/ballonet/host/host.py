"""A host: balloon devices for many guests, on one queue thread, with one thread for all monitors.

    DIRECTORY/host.qmp      the host's own monitor: guests come and go
    DIRECTORY/host.json     its list of guests
    DIRECTORY/NAME.sock     vhost-user socket of a guest
    DIRECTORY/NAME.qmp      its monitor
    DIRECTORY/NAME.state    what its device must know after a restart

A guest that does nothing costs a few sockets and no time.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Final

from ballonet.device.balloon import BalloonSettings
from ballonet.errors import BallonetError, SettingsError, SystemCallError
from ballonet.host.guest_list import GuestList, check_name
from ballonet.monitor.device_machine import DeviceMachine
from ballonet.monitor.device_watch import DeviceWatch
from ballonet.monitor.monitor import Monitor
from ballonet.monitor.outbox import Outbox
from ballonet.monitor.server import MonitorServer
from ballonet.monitor.serving import switching_fast
from ballonet.qmp.host_commands import HOST_COMMANDS
from ballonet.units import pages_to_bytes
from ballonet.vhost_user.event_loop import EventLoop
from ballonet.vhost_user.listener import listening_socket
from ballonet.vhost_user.server import DeviceServer

__all__ = ["CONTROL_NAME", "Host"]

CONTROL_NAME: Final = "host.qmp"
_ASK_S: Final = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Guest:
    memory_bytes: int | None
    device: DeviceServer
    monitor: Monitor
    machine: DeviceMachine
    sockets: ExitStack


class Host:
    """A `HostMachine`. `run` it; the other methods may be called from any thread meanwhile."""

    def __init__(self, directory: Path, settings: BalloonSettings) -> None:
        self._directory, self._settings = directory, settings
        self._list = GuestList(directory / "host.json")
        self._loop = EventLoop()
        self._monitors = MonitorServer()
        self._guests: dict[str, _Guest] = {}
        self._changing = RLock()

    def run(self) -> None:
        """Serve until stopped. Raises: ListenError, SettingsError."""
        control_path = self._directory / CONTROL_NAME
        with ExitStack() as stack:
            stack.callback(self._loop.close)
            # Whoever has this socket has the directory.
            control = stack.enter_context(listening_socket(control_path))
            stack.callback(self._close)
            self._monitors.start()
            for name, memory_bytes in self._list.load().items():
                self._begin(name, memory_bytes)
            self._monitors.add(Monitor(self, [control], Outbox(), commands=HOST_COMMANDS))
            stack.enter_context(switching_fast())
            _log.info("serving %d guests; end with Ctrl-C", len(self._guests))
            self._loop.run()

    def stop(self) -> None:
        """Let `run` return; may be called from a signal handler."""
        self._loop.stop()

    def quit(self) -> None:
        """The same, as a monitor's client says it."""
        self.stop()

    def add_guest(self, name: str, memory_bytes: int | None) -> dict[str, object]:
        """Serve one more; returns its row. Raises: SettingsError, SystemCallError."""
        check_name(name)
        with self._changing:
            if name in self._guests:
                raise SettingsError("name of a guest", name, "one that is not in use")
            self._loop.ask(lambda: self._begin(name, memory_bytes), _ASK_S)
            self._save()
            return self._row(name)

    def remove_guest(self, name: str) -> None:
        """Hang up on a guest's VMM and forget the guest. Raises: SettingsError, SystemCallError."""
        with self._changing:
            guest = self._guests.pop(name, None)
            if guest is None:
                raise SettingsError("name of a guest", name, "one of this host's; see `list`")
            guest.machine.end("host-qmp-quit")
            self._loop.ask(guest.device.close, _ASK_S)
            self._monitors.remove(guest.monitor, guest.sockets.close)
            self._state_path(name).unlink(missing_ok=True)
            self._save()

    def guests(self) -> list[dict[str, object]]:
        """A row for each, by name; sizes in bytes."""
        with self._changing:
            return [self._row(name) for name in sorted(self._guests)]

    def _row(self, name: str) -> dict[str, object]:
        guest = self._guests[name]
        now = guest.device.peek()
        return {
            "name": name,
            "socket": str(self._directory / f"{name}.sock"),
            "qmp": str(self._directory / f"{name}.qmp"),
            "memory": guest.machine.ram_bytes,
            "target": pages_to_bytes(now.target_pages),
            "actual": pages_to_bytes(now.actual_pages),
            "stage": now.stage.name.lower().replace("_", "-"),
        }

    def _begin(self, name: str, memory_bytes: int | None) -> None:
        """Make a guest's device and monitor; on the loop's thread, or before it runs."""
        with ExitStack() as stack:
            try:
                sock = stack.enter_context(listening_socket(self._directory / f"{name}.sock"))
                qmp = stack.enter_context(listening_socket(self._directory / f"{name}.qmp"))
            except OSError as error:  # too many open files
                raise SystemCallError("adding", name, error.strerror or str(error)) from error
            device = DeviceServer(
                self._settings,
                sock,
                listening=True,
                state_path=self._state_path(name),
                loop=self._loop,
                stop=lambda: self._quit_guest(name),
            )
            outbox = Outbox()
            machine = DeviceMachine(device, memory_bytes=memory_bytes, post=outbox.post)
            watch = DeviceWatch(device, outbox.post, machine.without_balloon)
            device.subscribe(watch.observe)
            monitor = Monitor(machine, [qmp], outbox, watch.look)
            self._monitors.add(monitor)
            guest = _Guest(memory_bytes, device, monitor, machine, stack.pop_all())
        self._guests[name] = guest

    def _quit_guest(self, name: str) -> None:
        """A client of the guest's monitor wants its device to end."""
        try:
            self.remove_guest(name)
        except BallonetError as error:
            _log.warning("%s", error)

    def _close(self) -> None:
        """End everything; guests are there again at the next start."""
        for guest in self._guests.values():
            guest.machine.end("host-signal")
        self._monitors.stop()
        for guest in self._guests.values():
            guest.device.close()
            guest.sockets.close()

    def _save(self) -> None:
        self._list.save({name: guest.memory_bytes for name, guest in self._guests.items()})

    def _state_path(self, name: str) -> Path:
        return self._directory / f"{name}.state"
