"""Our own guest with our driver of Hyper-V's Dynamic Memory, in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from ballonet.conform.hyperv.scripted_host import Script, ScriptedHost
from ballonet.conform.sibling_memory import shared_memory
from ballonet.conform.small_guest import SmallGuest
from ballonet.hyperv.driver import HypervDriver
from ballonet.hyperv.settings import HypervDriverSettings, HypervHostSettings
from ballonet.kernel.kernel import Kernel
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.shared_file import SharedFile
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["EmbeddedRig", "MakeDriver"]

T = TypeVar("T")

_MEMORY_BYTES: Final = 64 << 20
_ALIVE_PAGES: Final = 256
#: What waits in a ring of 16 KiB.
_RING_BYTES: Final = 16384

#: Makes a driver of a kernel, of the way to its host, and of settings.
MakeDriver = Callable[[Kernel, Callable[[bytes], bool], HypervDriverSettings], HypervDriver]


class EmbeddedRig:
    """Our driver, or what `make` makes; a fresh guest for each session."""

    name = "the Hyper-V driver of the embedded guest"

    def __init__(self, make: MakeDriver = HypervDriver) -> None:
        self._make = make

    @contextmanager
    def session(
        self,
        script: Script | None = None,
        *,
        hibernates: bool = False,
        unreported: int = 0,
    ) -> Iterator[_EmbeddedGuest]:
        """A guest that has begun with its host."""
        with shared_memory(_MEMORY_BYTES) as (file, of_host):
            settings = HypervDriverSettings(unreported, hibernates)
            guest = _EmbeddedGuest(file, of_host)
            guest.host.play(script)
            guest.start(self._make(guest.small.kernel, guest.to_host.put, settings))
            yield guest
            guest.host.detach()


class _Ring:
    """Messages on their way."""

    def __init__(self) -> None:
        self.is_full = False
        self._waiting: deque[bytes] = deque()
        self._bytes = 0

    def put(self, raw: bytes) -> bool:
        if self.is_full or self._bytes + len(raw) > _RING_BYTES:
            return False
        self._waiting.append(raw)
        self._bytes += len(raw)
        return True

    def take(self) -> bytes | None:
        if not self._waiting:
            return None
        raw = self._waiting.popleft()
        self._bytes -= len(raw)
        return raw


class _EmbeddedGuest:
    """A `GuestSession`."""

    is_timed = True
    is_trusting = False
    free_doubt_pages = 0

    def __init__(self, file: SharedFile, of_host: GuestMemory) -> None:
        self.memory_pages = file.size // BALLOON_PAGE_BYTES
        self.small: Final = SmallGuest(file)
        self.to_host: Final = _Ring()
        self._to_guest = _Ring()
        settings = HypervHostSettings(post_init_wait_ns=0)
        self.host: ScriptedHost = ScriptedHost(self.small.clock, settings, self._to_guest.put)
        self.host.attach(of_host)
        self.small.meet(self)
        self._driver: HypervDriver

    def start(self, driver: HypervDriver) -> None:
        """Load it, and let it come to terms."""
        self._driver = driver
        driver.start()
        self.small.rest(0)

    @property
    def deadline_ns(self) -> int | None:
        return self.host.deadline_ns

    def turn(self) -> bool:
        to_guest, to_host = self._to_guest.take(), self.to_host.take()
        if to_guest is not None:
            self._driver.received(to_guest)
        if to_host is not None:
            self.host.received(to_host)
        is_busy = to_guest is not None or to_host is not None
        return self.host.expired(busy=is_busy) or is_busy

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
    def free_pages(self) -> int:
        return self.small.kernel.free_frames

    @property
    def available_pages(self) -> int:
        return self.small.kernel.available_frames

    @property
    def total_pages(self) -> int:
        return self.small.kernel.managed_frames

    def is_alive(self) -> bool:
        return self.small.use_memory(_ALIVE_PAGES)

    def set_room(self, *, is_full: bool) -> None:
        self.to_host.is_full = is_full

    def leave(self) -> None:
        self.small.do("closing", self._driver.stop())
