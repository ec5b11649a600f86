"""The real hv_balloon of Linux, with a scripted host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, TypeVar

from ballonet.balloon.clock import Clock
from ballonet.conform.checks import Failed, NotApplicable
from ballonet.conform.hyperv.guest_session import give_back
from ballonet.conform.hyperv.scripted_host import Script, ScriptedHost, audit
from ballonet.conform.linux_guest import LinuxGuest
from ballonet.guests.hyperv_guest import HypervGuest
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.siblings.vmbus_serial import VmbusSerial

__all__ = ["LinuxRig"]

T = TypeVar("T")

_MEMORY_BYTES: Final = 512 << 20
_BALLOONED: Final = "grep ^pages_ballooned /sys/kernel/debug/hv-balloon"


class LinuxRig:
    """One guest of a kind for all checks, while it is open; each has a host of its own."""

    name = "hv_balloon of Linux"

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._guests: dict[bool, HypervGuest] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Guests live inside the block. Raises: GuestError."""
        with self._stack:
            release = self._guest(can_hibernate=False).linux.release
            self.name = f"hv_balloon of Linux {release}"
            yield

    @contextmanager
    def session(
        self,
        script: Script | None = None,
        *,
        hibernates: bool = False,
        unreported: int = 0,
    ) -> Iterator[_LinuxHypervGuest]:
        """A host that the driver begins anew with. Raises: NotApplicable; GuestError; Failed."""
        if unreported:
            raise NotApplicable("its reports are not held back here, so that nobody has to wait")
        hosts: list[ScriptedHost] = []

        def make(
            clock: Clock, settings: HypervHostSettings, send: Callable[[bytes], bool]
        ) -> ScriptedHost:
            hosts.append(ScriptedHost(clock, settings, send))
            hosts[0].play(script)
            return hosts[0]

        guest = self._guest(can_hibernate=hibernates)
        with guest.served(HypervHostSettings(post_init_wait_ns=0), make) as port:
            session = _LinuxHypervGuest(guest, port, hosts[0])
            with ExitStack() as stack:
                stack.callback(session.empty)
                if not session.until(lambda: script is not None or session.is_running):
                    raise Failed("the driver does not say what it can do")
                yield session

    def _guest(self, *, can_hibernate: bool) -> HypervGuest:
        if can_hibernate not in self._guests:
            guest = HypervGuest(_MEMORY_BYTES, can_hibernate=can_hibernate)
            self._guests[can_hibernate] = self._stack.enter_context(guest)
        return self._guests[can_hibernate]


class _LinuxHypervGuest(LinuxGuest):
    """A `GuestSession`."""

    def __init__(self, guest: HypervGuest, port: VmbusSerial, host: ScriptedHost) -> None:
        super().__init__(guest.shell, _MEMORY_BYTES)
        self.host = host
        self._port = port

    def tell(self, action: Callable[[ScriptedHost], T]) -> T:
        return self._port.ask(lambda _: action(self.host))

    @property
    def is_running(self) -> bool:
        """The handshake is over."""
        return self.tell(lambda host: host.is_running)

    @property
    def actual_pages(self) -> int:
        return int(self.ask(_BALLOONED).split(":")[1])

    def empty(self) -> None:
        """Whatever a check has done, the next one finds an empty balloon."""
        with suppress(Failed):
            given = self.tell(lambda host: audit(host.record, self.memory_pages))
            if given:
                give_back(self, given)

    def set_room(self, *, is_full: bool) -> None:
        del is_full
        raise NotApplicable("the ring's other end is in the guest's kernel")

    def leave(self) -> None:
        raise NotApplicable("the module stays loaded")
