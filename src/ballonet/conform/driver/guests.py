"""Guests whose driver is checked, and what can be done inside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

from ballonet.conform.driver.scripted_device import ScriptedControl
from ballonet.device.balloon import BalloonSettings
from ballonet.errors import GuestError
from ballonet.guests.embedded import EmbeddedGuestSettings
from ballonet.guests.embedded_process import EmbeddedGuest
from ballonet.guests.guest import Guest
from ballonet.guests.linux import LinuxGuest, LinuxGuestSettings
from ballonet.guests.processes import PrivateDirectory
from ballonet.kernel.kernel import KernelSettings
from ballonet.vhost_user.listener import listening_socket
from ballonet.vhost_user.server import serving
from ballonet.virtio.features import Feature

__all__ = ["MEMORY_BYTES", "DriverRig", "EmbeddedRig", "GuestUnderTest", "LinuxRig"]

MEMORY_BYTES: Final = 256 << 20
#: For hangs alone: a busy machine is no fault of a driver.
_WAIT_S: Final = 120.0
_LOOK_S: Final = 0.02


class GuestUnderTest:
    """A guest, and the device it was given."""

    def __init__(self, guest: Guest, device: ScriptedControl, actions: Actions) -> None:
        self.guest: Final = guest
        self.device: Final = device
        self.actions: Final = actions

    @property
    def negotiated(self) -> Feature:
        """What the driver accepted."""
        return self.device.status().negotiated

    @property
    def actual_pages(self) -> int:
        """What the driver says is in the balloon."""
        return self.device.status().actual_pages

    def resize(self, pages: int, seconds: float = _WAIT_S) -> bool:
        """Ask for a balloon and wait for it."""
        self.device.set_target(pages)
        return self.until(lambda: self.actual_pages == pages, seconds)

    def until(self, condition: Callable[[], bool], seconds: float = _WAIT_S) -> bool:
        """Wait for something; False if it does not come."""
        end_s = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end_s:
                return False
            time.sleep(_LOOK_S)
        return True

    def settle(self) -> None:
        """Let a change of the balloon end, and what was posted be done."""
        self.device.status()
        time.sleep(_LOOK_S)


class Actions(Protocol):
    """What happens inside a guest, by its kind."""

    def compact(self, guest: Guest) -> None:
        """Make every zone's free memory contiguous."""
        ...

    def overcommit(self, guest: Guest, size: int) -> bool:
        """A process takes so many bytes; False if it does not survive that."""
        ...

    def read_file(self, guest: Guest, path: Path) -> None:
        """Read a file of the host, so that it is in the page cache and stays there."""
        ...

    def is_alive(self, guest: Guest) -> bool:
        """The guest answers."""
        ...

    def leave(self, guest: Guest) -> None:
        """The driver lets go of the device."""
        ...


class DriverRig(Protocol):
    """Boots guests."""

    name: str

    def machine(self, offered: Feature, *, poisons: bool = False) -> GuestUnderTest:
        """A running guest, the same for the same wishes."""
        ...


class _Rigs:
    """Keeps a guest for the next check that wants the same; a context manager."""

    name = ""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._machines: dict[tuple[Feature, bool], GuestUnderTest] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Guests live inside the block."""
        with self._stack:
            yield

    def machine(self, offered: Feature, *, poisons: bool = False) -> GuestUnderTest:
        """A running guest. Raises: GuestError."""
        key = offered, poisons
        if key not in self._machines:
            path = self._stack.enter_context(PrivateDirectory("ballonet-")) / "device"
            sock = self._stack.enter_context(listening_socket(path))
            control = ScriptedControl(BalloonSettings(offered), sock)
            self._stack.enter_context(serving(control.server))
            guest = self._guest(path, poisons=poisons)
            self._stack.enter_context(guest)
            self._stack.callback(control.release)
            self._machines[key] = GuestUnderTest(guest, control, self._actions())
        return self._machines[key]

    def _guest(self, path: Path, *, poisons: bool) -> Guest:
        raise NotImplementedError

    def _actions(self) -> Actions:
        raise NotImplementedError


class LinuxRig(_Rigs):
    """A real kernel."""

    name = "Linux"

    def _guest(self, path: Path, *, poisons: bool) -> Guest:
        line = ("init_on_free=1",) if poisons else ()
        return LinuxGuest(LinuxGuestSettings(MEMORY_BYTES, path, command_line=line))

    def _actions(self) -> Actions:
        return _LinuxActions()


class EmbeddedRig(_Rigs):
    """Our own kernel and driver."""

    name = "the embedded guest"

    def _guest(self, path: Path, *, poisons: bool) -> Guest:
        kernel = KernelSettings(poison=0 if poisons else None)
        return EmbeddedGuest(EmbeddedGuestSettings(MEMORY_BYTES, path, kernel=kernel))

    def _actions(self) -> Actions:
        return _EmbeddedActions()


class _LinuxActions:
    def compact(self, guest: Guest) -> None:
        _linux(guest).check("echo 1 > /proc/sys/vm/compact_memory")

    def overcommit(self, guest: Guest, size: int) -> bool:
        command = (
            "echo 1 > /proc/sys/vm/overcommit_memory;"
            f" dd if=/dev/zero of=/dev/null bs={size >> 20}M count=1; echo $?"
        )
        return _linux(guest).run(command).output.strip().splitlines()[-1] == "0"

    def read_file(self, guest: Guest, path: Path) -> None:
        _linux(guest).check(f"mkdir -p /host; mount -t hostfs none /host -o {path.parent}")
        # Open for ever: what nobody has open is not kept.
        _linux(guest).check(
            f"(exec 3< /host/{path.name}; cat <&3 > /dev/null; touch /tmp/read; sleep 100000)"
            " > /dev/null 2>&1 & until [ -e /tmp/read ]; do sleep 0.1; done"
        )

    def is_alive(self, guest: Guest) -> bool:
        return _linux(guest).run("true", timeout_s=10).exit_code == 0

    def leave(self, guest: Guest) -> None:
        _linux(guest).check("rmmod virtio_balloon")


class _EmbeddedActions:
    def compact(self, guest: Guest) -> None:
        _embedded(guest).ask("compact")

    def overcommit(self, guest: Guest, size: int) -> bool:
        survived = bool(_embedded(guest).ask("hog", size=size))
        _embedded(guest).ask("release_hogs")
        return survived

    def read_file(self, guest: Guest, path: Path) -> None:
        _embedded(guest).ask("read_file", size=path.stat().st_size)

    def is_alive(self, guest: Guest) -> bool:
        return bool(guest.meminfo())

    def leave(self, guest: Guest) -> None:
        _embedded(guest).ask("remove")


def _linux(guest: Guest) -> LinuxGuest:
    if not isinstance(guest, LinuxGuest):
        raise GuestError("no Linux guest")
    return guest


def _embedded(guest: Guest) -> EmbeddedGuest:
    if not isinstance(guest, EmbeddedGuest):
        raise GuestError("no embedded guest")
    return guest
