"""The embedded guest: kernel and driver of ours in a process, attached to a balloon.

That is any vhost-user balloon, or a host of ours of Hyper-V's or VMware's kind.  With virtio's it
can go on elsewhere.  Here: `freeze`, then, when the device has stopped, `save_state`; `thaw` if
nothing came of it.  There: a machine made with `waits_for_state` touches neither memory nor device
until its memory was filled; then `restore_state`, `take_device` and `go_on`.
Not here: the process (embedded_process.py), what the guest can be asked (embedded_requests.py), its
balloon (balloon_side.py).
Units: bytes.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from ballonet.driver import state as driver_state
from ballonet.driver.balloon_driver import BalloonDriver
from ballonet.driver.settings import DriverSettings
from ballonet.errors import GuestError, MigrationError, SettingsError, UsageError
from ballonet.guests.balloon_side import BalloonSide
from ballonet.guests.embedded_requests import AskedGuest, RequestSocket
from ballonet.guests.hyperv_side import HypervSide
from ballonet.guests.virtio_side import VirtioSide
from ballonet.guests.vmware_side import VmwareSide
from ballonet.kernel import state as kernel_state
from ballonet.kernel.kernel import Kernel, KernelSettings
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Job, Rest, Scheduler
from ballonet.kernel.workloads import WORKLOADS, Programs
from ballonet.memory.shared_file import SharedFile
from ballonet.runtime.event_loop import EventLoop
from ballonet.vhost_user.frontend import FrontEnd

__all__ = ["BALLOONS", "Companion", "EmbeddedGuestSettings", "EmbeddedMachine"]

_STEPS_PER_TURN: Final = 200
#: A throttled guest stands still once in so long.
_THROTTLE_NS: Final = 10_000_000
#: The kinds of balloon a guest can have.
BALLOONS: Final = ("virtio", "hyperv", "vmware")
_KERNEL, _DRIVER = "kernel", "driver"


@dataclass(frozen=True, slots=True)
class EmbeddedGuestSettings:
    """What a guest is started with."""

    memory_bytes: int
    socket_path: Path | None = None  #: of its balloon; vhost-user's, or that of a host
    page_bytes: int = 4096
    workload: str | None = None
    speed: float = 1.0  #: of the guest's clock
    kernel: KernelSettings = field(default_factory=KernelSettings)
    driver: DriverSettings = field(default_factory=DriverSettings)  #: of a virtio balloon
    balloon: str = "virtio"  #: one of `BALLOONS`


class Companion(Protocol):
    """Something that the machine's loop has to think of."""

    @property
    def deadline_ns(self) -> int | None:
        """When it is to be asked at the latest, by the host's clock."""
        ...

    def work(self) -> bool:
        """A step; True if there is more to do."""
        ...


class EmbeddedMachine:
    """Memory, kernel, driver and the way to the device; a context manager.

    All methods but `stop` belong to the thread of its loop.
    """

    def __init__(self, settings: EmbeddedGuestSettings, *, waits_for_state: bool = False) -> None:
        if settings.workload not in (None, *WORKLOADS):
            raise GuestError(f"no workload {settings.workload!r}; there are {', '.join(WORKLOADS)}")
        if settings.socket_path is None:
            raise GuestError("an embedded guest needs a balloon device")
        self.settings: Final = settings
        self.waits_for_state = waits_for_state
        self._begun_ns = time.monotonic_ns()
        self.loop: Final = EventLoop(self._work, self._deadline_ns)
        self.memory: Final = SharedFile("ballonet-guest", settings.memory_bytes)
        pieces = [MemoryPiece(0, self.memory.view)]
        self.scheduler: Final = Scheduler()
        self.kernel: Final = Kernel(
            PhysicalMemory(pieces, settings.page_bytes),
            self.scheduler,
            settings.kernel,
            boots=not waits_for_state,
        )
        self.programs: Final = Programs(self.kernel)
        self.balloon: Final = _balloon_of(self, settings.socket_path)
        self.companions: Final[list[Companion]] = []  #: asked in each turn of the loop
        self.throttle_percent = 0  #: of its time that the guest stands still
        self._requests: RequestSocket | None = None

    def check_movable(self) -> None:
        """Raises: MigrationError, if it has a balloon with which it cannot go elsewhere."""
        if not isinstance(self.balloon, VirtioSide):
            raise MigrationError(f"a guest with a balloon of {self.settings.balloon} cannot move")

    @property
    def front_end(self) -> FrontEnd:
        """The way to its virtio balloon. Raises: UsageError, if it has another one."""
        return self._virtio.front_end

    @property
    def driver(self) -> BalloonDriver:
        """The driver of the same. Raises: UsageError, if it has another one."""
        return self._virtio.driver

    def __enter__(self) -> Self:
        if self.waits_for_state:
            return self
        try:
            self.balloon.start()
        except BaseException:
            self.close()
            raise
        if self.settings.workload is not None:
            self.programs.start(self.settings.workload)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def listen(self, control: socket.socket) -> None:
        """Obey requests on this socket, and end when it is closed."""
        guest = AskedGuest(self.kernel, self.balloon)
        self._requests = RequestSocket(control, self.loop, guest, self.stop)

    def run(self) -> None:
        """Run until stopped. Raises: GuestError; GuestPanicError."""
        self.loop.run()

    def stop(self) -> None:
        """Let `run` return; may be called from a signal handler."""
        self.loop.stop()

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Call something again and again, by the host's clock, while the guest runs."""

        def repeat() -> Job[None]:
            while True:
                action()
                pause_ns = int(seconds * 1e9 * self.settings.speed)
                yield Rest(until_ns=self.scheduler.now_ns + pause_ns)

        self.scheduler.spawn("watch", repeat())

    def close(self) -> None:
        """Power off; safe to call again."""
        self.balloon.close()
        self.kernel.memory.release()
        self.memory.close()
        self.loop.close()

    def freeze(self) -> None:
        """Let every task come to rest; what was begun comes to its end, nothing new is begun.

        The device is still needed for that, and the loop must run.  `is_frozen` says when all rest;
        then nothing goes on until `thaw`, and the guest's clock stands still.
        """
        self.scheduler.freeze()

    @property
    def is_frozen(self) -> bool:
        """Every task rests."""
        return self.scheduler.is_frozen

    def thaw(self) -> None:
        """Let all go on, at rest or on their way to it; the device must be running again."""
        stood_still = self.scheduler.is_frozen
        self.scheduler.thaw()
        if stood_still:
            self._set_clock()

    def save_state(self) -> dict[str, bytes]:
        """What a machine with a copy of this memory needs to go on; the device must have stopped.

        Raises: UsageError, if it is not frozen; GuestError, if it cannot be written down.
        """
        return {
            _KERNEL: kernel_state.state_of(self.kernel, self.programs),
            _DRIVER: driver_state.state_of(self.driver),
        }

    def restore_state(self, state: Mapping[str, bytes]) -> None:
        """Become the guest that another machine stopped, all of whose memory is here by now.

        The device is not asked for anything yet.  The guest's clock goes on where it stopped, too.
        Raises: SettingsError, StreamError, if the state is not for this machine or cannot be right,
        and the machine can only be closed then.
        """
        if not self.waits_for_state:
            raise UsageError("the guest has begun")
        if state.keys() != {_KERNEL, _DRIVER}:
            raise SettingsError("parts of the state", ", ".join(sorted(state))[:80], "both parts")
        kernel_state.restore_state(self.kernel, self.programs, state[_KERNEL])
        driver_state.restore_state(self.driver, state[_DRIVER])

    def take_device(self, state: bytes | None) -> None:
        """Prepare the device for the guest that was restored.

        `state` is that of the device it had; None, if this one knows the guest already.
        Raises: GuestError, if there is no such device, or it refuses the state; the machine can
        only be closed then.
        """
        if not self.waits_for_state or not self.driver.queues:
            raise UsageError("no state was restored, or the guest has begun")
        self.front_end.connect()
        self.driver.accept_again()
        if state is not None:
            self.front_end.migration.load_state(state)

    def go_on(self) -> None:
        """Let the guest that was restored run. Raises: GuestError, if its device is gone."""
        if not self.waits_for_state or not self.front_end.is_connected:
            raise UsageError("no device was taken, or the guest has begun")
        self.driver.go_on()
        self._set_clock()
        self.waits_for_state = False

    @property
    def _virtio(self) -> VirtioSide:
        """Raises: UsageError, if it has another balloon."""
        if not isinstance(self.balloon, VirtioSide):
            raise UsageError(f"the guest's balloon is of {self.settings.balloon}")
        return self.balloon

    def _now_ns(self) -> int:
        """The guest's clock."""
        if self.scheduler.is_frozen:
            return self.scheduler.now_ns
        return int((time.monotonic_ns() - self._begun_ns) * self.settings.speed)

    def _set_clock(self) -> None:
        """Let the guest's clock go on where it stands."""
        self._begun_ns = time.monotonic_ns() - int(self.scheduler.now_ns / self.settings.speed)

    def _work(self) -> bool:
        if self.waits_for_state:
            return False
        if not self.scheduler.is_frozen:
            self.balloon.reconnect()
        is_held_up = self._held_up_until_ns() is not None
        if not is_held_up:
            self.scheduler.run(self._now_ns(), _STEPS_PER_TURN)
        has_more = [one.work() for one in self.companions]
        return any(has_more) or (self.scheduler.can_go_on and not is_held_up)

    def _held_up_until_ns(self) -> int | None:
        """When the throttled guest may go on; None: it may."""
        if not self.throttle_percent or self.scheduler.is_freezing:
            return None
        now_ns = time.monotonic_ns()
        begun_ns = now_ns - now_ns % _THROTTLE_NS
        until_ns = begun_ns + _THROTTLE_NS * self.throttle_percent // 100
        return until_ns if now_ns < until_ns else None

    def _deadline_ns(self) -> int | None:
        """By the host's clock."""
        times = [one.deadline_ns for one in self.companions if one.deadline_ns is not None]
        held_up_ns = self._held_up_until_ns()
        if held_up_ns is not None:
            return min([*times, held_up_ns])
        if self.scheduler.is_frozen or self.waits_for_state:
            return min(times, default=None)
        if self.scheduler.deadline_ns is not None:
            times.append(self._begun_ns + int(self.scheduler.deadline_ns / self.settings.speed))
        if self.balloon.deadline_ns is not None:
            times.append(self.balloon.deadline_ns)
        return min(times, default=None)


def _balloon_of(machine: EmbeddedMachine, path: Path) -> BalloonSide:
    """Raises: GuestError, if there is no such balloon."""
    kernel, loop, memory, settings = machine.kernel, machine.loop, machine.memory, machine.settings
    match settings.balloon:
        case "virtio":
            return VirtioSide(kernel, loop, path, memory, settings.driver)
        case "hyperv":
            return HypervSide(kernel, loop, path, memory)
        case "vmware":
            return VmwareSide(kernel, loop, path, memory)
    raise GuestError(f"no balloon {settings.balloon!r}; there are {', '.join(BALLOONS)}")
