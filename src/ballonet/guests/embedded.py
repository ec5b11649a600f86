"""The embedded guest: kernel and driver of ours in a process, attached to any vhost-user balloon.

It can be asked things over a socket, a JSON object in each line: ``{"do": "meminfo"}`` is answered
with ``{"result": {...}}`` or ``{"error": "..."}``.  Not here: the process (embedded_process.py).
Units: bytes.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from ballonet.driver.balloon_driver import BalloonDriver
from ballonet.driver.settings import DriverSettings
from ballonet.errors import BallonetError, GuestError
from ballonet.kernel.areas import Process
from ballonet.kernel.kernel import Kernel, KernelSettings, ProcessKilled
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Job, Scheduler, Sleep
from ballonet.kernel.workloads import WORKLOADS, start_workload
from ballonet.memory.fence import full_fence
from ballonet.memory.regions import Region
from ballonet.memory.shared_file import SharedFile
from ballonet.runtime.event_loop import EventLoop
from ballonet.vhost_user.frontend import FrontEnd, SharedRegion

__all__ = ["EmbeddedGuestSettings", "EmbeddedMachine"]

_STEPS_PER_TURN: Final = 200
_RECONNECT_NS: Final = 100_000_000
_LINE_MAX: Final = 1 << 16
_ANSWER_S: Final = 5.0
#: Where guest memory lies in the addresses of its own process; only rings are named by it.
_UVA: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class EmbeddedGuestSettings:
    """What a guest is started with."""

    memory_bytes: int
    socket_path: Path | None = None  #: vhost-user socket of its balloon
    page_bytes: int = 4096
    workload: str | None = None
    speed: float = 1.0  #: of the guest's clock
    kernel: KernelSettings = field(default_factory=KernelSettings)
    driver: DriverSettings = field(default_factory=DriverSettings)


class EmbeddedMachine:
    """Memory, kernel, driver and the way to the device; a context manager."""

    def __init__(self, settings: EmbeddedGuestSettings) -> None:
        if settings.workload not in (None, *WORKLOADS):
            raise GuestError(f"no workload {settings.workload!r}; there are {', '.join(WORKLOADS)}")
        if settings.socket_path is None:
            raise GuestError("an embedded guest needs a balloon device")
        self.settings: Final = settings
        self._begun_ns = time.monotonic_ns()
        self._loop = EventLoop(self._work, self._deadline_ns)
        self._memory = SharedFile("ballonet-guest", settings.memory_bytes)
        pieces = [MemoryPiece(0, self._memory.view)]
        self.scheduler: Final = Scheduler(self._now_ns())
        self.kernel: Final = Kernel(
            PhysicalMemory(pieces, settings.page_bytes), self.scheduler, settings.kernel
        )
        region = Region(0, settings.memory_bytes, _UVA, 0)
        self.front_end: Final = FrontEnd(
            self._loop,
            settings.socket_path,
            [SharedRegion(region, self._memory.fd)],
            called=self._called,
            config_changed=self._config_changed,
            reconnected=self._reconnected,
        )
        self.driver: Final = BalloonDriver(self.kernel, self.front_end, full_fence, settings.driver)
        self._control: socket.socket | None = None
        self._received = b""
        self._reconnect_ns = 0
        self._hogs: list[Process] = []

    def __enter__(self) -> Self:
        try:
            self.front_end.connect()
            self.driver.start()
        except BaseException:
            self.close()
            raise
        if self.settings.workload is not None:
            start_workload(self.kernel, self.settings.workload)
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
        control.settimeout(0)
        self._control = control
        self._loop.register(control.fileno(), self._read_requests)

    def run(self) -> None:
        """Run until stopped. Raises: GuestError; GuestPanicError."""
        self._loop.run()

    def stop(self) -> None:
        """Let `run` return; may be called from a signal handler."""
        self._loop.stop()

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Call something again and again, by the host's clock."""

        def repeat() -> Job[None]:
            while True:
                action()
                yield Sleep(int(seconds * 1e9 * self.settings.speed))

        self.scheduler.spawn("watch", repeat())

    def close(self) -> None:
        """Power off; safe to call again."""
        self.front_end.close()
        self.kernel.memory.release()
        self._memory.close()
        self._loop.close()

    def use_memory(self, percent: int) -> Job[int]:
        """Fill a part of what is available with a file and remove it; returns the bytes."""
        pages = self.kernel.available_frames * percent // 100
        area = self.kernel.add_area("fill", pages)
        yield from self.kernel.paging.touch(area, np.arange(pages), write=True)
        self.kernel.remove_area(area)
        return pages * self.kernel.page_bytes

    def read_file(self, size: int) -> Job[int]:
        """Read a file of so many bytes, which stays in the page cache; returns its pages."""
        pages = size // self.kernel.page_bytes
        area = self.kernel.add_area("file", pages)
        yield from self.kernel.paging.touch(area, np.arange(pages), write=False)
        return pages

    def hog(self, size: int) -> Job[bool]:
        """A process takes so many bytes and keeps them; False if it was killed for it."""
        process = self.kernel.start_process("hog")
        pages = size // self.kernel.page_bytes
        area = self.kernel.add_area("hog", pages, process)
        self._hogs.append(process)
        try:
            yield from self.kernel.paging.touch(area, np.arange(pages), write=True, process=process)
        except ProcessKilled:
            return False
        return process.is_alive

    def release_hogs(self) -> Job[int]:
        """End every process that keeps memory, after a look at what is in it."""
        hogs, self._hogs = [one for one in self._hogs if one.is_alive], []
        for process in hogs:
            for area in list(process.areas):
                pages = np.arange(area.frames.size)
                yield from self.kernel.paging.touch(area, pages, write=False, process=process)
            self.kernel.end_process(process)
        return len(hogs)

    def _called(self, queue: int) -> None:
        self.driver.called(queue)

    def _config_changed(self) -> None:
        self.driver.config_changed()

    def _reconnected(self) -> None:
        self.driver.reconnected()

    def _now_ns(self) -> int:
        """The guest's clock."""
        return int((time.monotonic_ns() - self._begun_ns) * self.settings.speed)

    def _work(self) -> bool:
        if not self.front_end.is_connected and time.monotonic_ns() >= self._reconnect_ns:
            self._reconnect_ns = time.monotonic_ns() + _RECONNECT_NS
            self.front_end.reconnect()
        return self.scheduler.run(self._now_ns(), _STEPS_PER_TURN)

    def _deadline_ns(self) -> int | None:
        deadline_ns = self.scheduler.deadline_ns
        if deadline_ns is not None:
            deadline_ns = self._begun_ns + int(deadline_ns / self.settings.speed)
        if not self.front_end.is_connected:
            return min(deadline_ns or self._reconnect_ns, self._reconnect_ns)
        return deadline_ns

    def _read_requests(self) -> None:
        if self._control is None:
            return
        try:
            data = self._control.recv(1 << 16)
        except OSError:  # whoever asked was killed with an answer unread
            data = b""
        if not data:
            self.stop()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > _LINE_MAX:
            self.stop()
        for line in lines:
            self.scheduler.spawn("request", self._execute(line))

    def _execute(self, line: bytes) -> Job[None]:
        try:
            request = json.loads(line)
            answer = {"result": (yield from _REQUESTS[request.pop("do")](self, **request))}
        except (BallonetError, ValueError, TypeError, KeyError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        if self._control is not None:
            self._answer(self._control, answer)

    def _answer(self, control: socket.socket, answer: dict[str, Any]) -> None:
        """Tell it; who does not listen is gone, and the guest goes with him."""
        control.settimeout(_ANSWER_S)
        try:
            control.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            self.stop()
        else:
            control.settimeout(0)


def _at_once(question: Callable[[EmbeddedMachine], Any]) -> Callable[..., Job[Any]]:
    """A request that is answered without waiting."""

    def ask(machine: EmbeddedMachine) -> Job[Any]:
        yield None
        return question(machine)

    return ask


def _driver_facts(machine: EmbeddedMachine) -> dict[str, object]:
    driver = machine.driver
    return {
        "negotiated": int(driver.negotiated),
        "actual_pages": driver.size.actual_pages,
        "out_of_puff": driver.size.out_of_puff,
        "hint_rounds": driver.hints.rounds if driver.hints else 0,
        "reports": driver.reports.chains if driver.reports else 0,
        "reconnections": machine.front_end.reconnections,
    }


_REQUESTS: Final[Mapping[str, Callable[..., Job[Any]]]] = {
    "meminfo": _at_once(lambda machine: machine.kernel.meminfo()),
    "vmstat": _at_once(lambda machine: asdict(machine.kernel.counters)),
    "driver": _at_once(_driver_facts),
    "drop_caches": _at_once(lambda machine: machine.kernel.reclaim.drop_cache()),
    "compact": lambda machine: machine.kernel.compact(),
    "use_memory": EmbeddedMachine.use_memory,
    "read_file": EmbeddedMachine.read_file,
    "hog": EmbeddedMachine.hog,
    "release_hogs": EmbeddedMachine.release_hogs,
    "freeze": lambda machine: machine.driver.freeze(),
    "restore": lambda machine: machine.driver.restore(),
    "remove": lambda machine: machine.driver.remove(),
}
