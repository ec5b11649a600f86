"""Our own guest with our driver of VMware's balloon, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from ballonet.conform.sibling_memory import shared_memory
from ballonet.conform.small_guest import SmallGuest
from ballonet.conform.vmware.scripted_host import ScriptedHost
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.tasks import Flag, Job
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.shared_file import SharedFile
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.vmware.calls import ALL_CAPABILITIES, Answer, Capability
from ballonet.vmware.driver import VmwareDriver, VmwareDriverSettings
from ballonet.vmware.host_calls import CallHost

__all__ = ["EmbeddedRig", "MakeDriver"]

T = TypeVar("T")

_MEMORY_BYTES: Final = 64 << 20
_ALIVE_PAGES: Final = 256

#: Makes a driver of a kernel, of the way to its host, and of settings.
MakeDriver = Callable[[Kernel, CallHost, VmwareDriverSettings], VmwareDriver]


class EmbeddedRig:
    """Our driver, or what `make` makes; a fresh guest for each session."""

    name = "the VMware driver of the embedded guest"

    def __init__(self, make: MakeDriver = VmwareDriver) -> None:
        self._make = make

    @contextmanager
    def session(
        self, offered: Capability = ALL_CAPABILITIES, *, shrinks: bool = False
    ) -> Iterator[_EmbeddedGuest]:
        """A guest that has begun with its host."""
        with shared_memory(_MEMORY_BYTES) as (file, of_host):
            settings = VmwareDriverSettings(shrinks=shrinks)
            guest = _EmbeddedGuest(file, of_host, offered)
            guest.start(self._make(guest.small.kernel, guest.call, settings))
            yield guest
            guest.host.detach()


class _EmbeddedGuest:
    """A `GuestSession`."""

    is_timed = True
    is_trusting = False
    free_doubt_pages = 0

    def __init__(self, file: SharedFile, of_host: GuestMemory, offered: Capability) -> None:
        self.memory_pages = file.size // BALLOON_PAGE_BYTES
        self.small: Final = SmallGuest(file)
        self.host: ScriptedHost = ScriptedHost(
            self.small.clock, offered, lambda _context, _resource: self._driver.ring_doorbell()
        )
        self.host.attach(of_host)
        self.small.meet(self)
        self._driver: VmwareDriver
        self._answers = Flag()
        self._answers.set()

    def start(self, driver: VmwareDriver) -> None:
        """Load it, and let it begin."""
        self._driver = driver
        driver.start()
        self.small.rest(0)

    def call(self, command: int, arg1: int, arg2: int) -> Job[Answer]:
        """The driver's way to its host."""
        yield None  # others may run, as when an answer takes time
        while not self._answers.is_set:
            yield self._answers
        return self.host.call(command, arg1, arg2)

    @property
    def deadline_ns(self) -> int | None:
        return self.host.deadline_ns

    def turn(self) -> bool:
        return self.host.expired()

    def tell(self, action: Callable[[ScriptedHost], T]) -> T:
        return action(self.host)

    def rest(self, seconds: float) -> None:
        self.small.rest(seconds)

    def until(self, condition: Callable[[], bool]) -> bool:
        return self.small.until(condition)

    @property
    def actual_pages(self) -> int:
        return self._driver.actual_pages

    @property
    def balloon_pages(self) -> int:
        return self._driver.actual_pages

    @property
    def free_pages(self) -> int:
        return self.small.kernel.free_frames

    def is_alive(self) -> bool:
        return self.small.use_memory(_ALIVE_PAGES)

    def compact(self) -> None:
        self.small.do("compaction", self.small.kernel.compact())

    def press(self) -> None:
        self.small.use_memory(self.small.kernel.free_frames * 5 // 4)

    def silence(self, *, is_silent: bool) -> None:
        (self._answers.clear if is_silent else self._answers.set)()

    def ring(self) -> None:
        self._driver.ring_doorbell()

    def leave(self) -> None:
        self.small.do("unloading", self._driver.stop())
