"""The real vmw_balloon of Linux, its calls answered by a scripted host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, TypeVar

from ballonet.conform.checks import Failed, NotApplicable
from ballonet.conform.linux_guest import LinuxGuest
from ballonet.conform.vmware.scripted_host import ScriptedHost, audit
from ballonet.guests.vmware_guest import VmwareGuest, parse_vmmemctl
from ballonet.runtime.system_clock import SystemClock
from ballonet.siblings.port_server import PortServer
from ballonet.vmware.calls import ALL_CAPABILITIES, Capability, Command

__all__ = ["LinuxRig"]

T = TypeVar("T")

_MEMORY_BYTES: Final = 512 << 20
_CURRENT: Final = "grep current /sys/kernel/debug/vmmemctl"


class LinuxRig:
    """One guest for all checks, while it is open; each has a host of its own."""

    name = "vmw_balloon of Linux"

    def __init__(self) -> None:
        self._guest: VmwareGuest

    @contextmanager
    def open(self) -> Iterator[None]:
        """The guest lives inside the block. Raises: GuestError."""
        with VmwareGuest(_MEMORY_BYTES) as self._guest:
            self._guest.vmmemctl()  # it counts nothing before somebody has looked
            self.name = f"vmw_balloon of Linux {self._guest.linux.release}"
            yield

    @contextmanager
    def session(
        self, offered: Capability = ALL_CAPABILITIES, *, shrinks: bool = False
    ) -> Iterator[_LinuxVmwareGuest]:
        """A host that the driver begins anew with. Raises: NotApplicable; GuestError; Failed."""
        if shrinks:
            raise NotApplicable("the module is loaded without its shrinker")
        host = ScriptedHost(SystemClock(), offered)
        with self._guest.served(host) as server, ExitStack() as stack:
            session = _LinuxVmwareGuest(self._guest, server, host)
            stack.callback(session.empty)
            if not session.until(lambda: bool(host.said(Command.START))):
                raise Failed("the driver does not START")
            yield session


class _LinuxVmwareGuest(LinuxGuest):
    """A `GuestSession`."""

    def __init__(self, guest: VmwareGuest, server: PortServer, host: ScriptedHost) -> None:
        super().__init__(guest.shell, _MEMORY_BYTES)
        self.host = host
        self._server = server

    def tell(self, action: Callable[[ScriptedHost], T]) -> T:
        return self._server.ask(lambda _: action(self.host))

    @property
    def actual_pages(self) -> int:
        return parse_vmmemctl(self.ask(_CURRENT))["current"]

    @property
    def balloon_pages(self) -> int:
        return self.tell(lambda host: len(audit(host.record, self.memory_pages)))

    def empty(self) -> None:
        """Whatever a check has done, the next one finds an empty balloon."""

        def be_right(host: ScriptedHost) -> None:
            host.play(None)
            host.set_target(0)
            host.reset_guest()

        self.tell(be_right)
        self.until(lambda: self.tell(lambda host: host.is_running and not host.actual_pages))

    def press(self) -> None:
        raise NotApplicable("the driver does not give way to its kernel")

    def silence(self, *, is_silent: bool) -> None:
        del is_silent
        raise NotApplicable("the whole machine waits for the answer")

    def ring(self) -> None:
        raise NotApplicable("there is no bus that a doorbell could be rung by")

    def leave(self) -> None:
        raise NotApplicable("the module stays loaded")
