"""A host of VMware's balloon and the guest whose calls it answers at QEMU's debugger port.

Everything runs on the thread of its loop, which `run` serves.  The other methods may be called from
any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from ballonet.balloon.clock import Clock, earliest, is_over
from ballonet.errors import GuestError
from ballonet.memory.mapping import GuestMemory
from ballonet.runtime.event_loop import EventLoop, Timed
from ballonet.runtime.system_clock import SystemClock
from ballonet.siblings.vmware_port import VmwarePort
from ballonet.vmware.host import VmwareHost

__all__ = ["PortServer"]

T = TypeVar("T")

_ANSWER_S: Final = 60.0


class PortServer:
    """A `HostServer` of a port that has been started, until it is stopped or the guest is gone."""

    def __init__(self, host: VmwareHost, port: VmwarePort, memory: GuestMemory) -> None:
        self.host: Final = host
        self.guest_memory: Final = memory
        self.loop: Final = EventLoop(self._work, self._deadline_ns)  #: served by `run`
        self.problem: str | None = None  #: why it ended before it was stopped
        self._clock: Clock = SystemClock()
        self._timed: tuple[Timed, ...] = ()
        self._port = port
        self._was_called = False
        self.loop.register(port.fileno(), self._serve)

    def run(self) -> None:
        """Serve; the guest goes on without a host afterwards, if it is still there."""
        try:
            self.loop.run()
        finally:
            self._port.close()
            self.loop.close()

    def add_timed(self, part: Timed) -> None:
        """Serve the timer of somebody else's part too, on the host's thread."""
        self._timed = (*self._timed, part)

    def execute(self, command: Callable[[], T]) -> T:
        """Let the host do what it is asked, between two calls of the guest."""
        return command()

    def ask(self, question: Callable[[VmwareHost], T]) -> T:
        """What the host says to it, from another thread.

        Raises: TimeoutError; UsageError, if it has ended; what the question raises.
        """
        return self.loop.ask(lambda: question(self.host), _ANSWER_S)

    def stop(self) -> None:
        """Let the guest go on without a host; may be called from a signal handler."""
        self.loop.stop()

    def _serve(self) -> None:
        try:
            self._was_called = self._port.serve()
        except GuestError as error:
            self.problem = str(error)
            self.loop.stop()

    def _deadline_ns(self) -> int | None:
        return earliest(self.host.deadline_ns, *(part.deadline_ns for part in self._timed))

    def _work(self) -> bool:
        now_ns = self._clock.now_ns()
        for part in self._timed:
            if is_over(part.deadline_ns, now_ns):
                part.expired()
        busy, self._was_called = self._was_called, False
        return self.host.expired(busy=busy)
