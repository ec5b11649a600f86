"""The back-end: one balloon device, served to one front-end after another.

Everything runs on the thread of its loop, which `run` serves.  The other methods may be called from
any thread.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Final, TypeVar

from ballonet.balloon.clock import earliest
from ballonet.balloon.facts import GuestChanged
from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.device.state import restore_state, state_of
from ballonet.memory.mapping import GuestMemory
from ballonet.runtime.event_loop import EventLoop, Timed
from ballonet.runtime.quiet_log import QuietLog
from ballonet.runtime.system_clock import SystemClock
from ballonet.vhost_user.connection import Connection
from ballonet.vhost_user.front_end_log import FrontEndLog
from ballonet.vhost_user.state_file import StateFile
from ballonet.vhost_user.state_transfer import StateTransfer

__all__ = ["DeviceServer", "make_server", "serving"]

T = TypeVar("T")

#: After a refusal of the system, as when descriptors run out.
_ACCEPT_AGAIN_NS: Final = 500_000_000
_log = logging.getLogger(__name__)


class DeviceServer:
    """Owns the socket it is given; `listening` says whether front-ends still have to connect."""

    def __init__(
        self,
        balloon: Balloon,
        sock: socket.socket,
        *,
        listening: bool,
        state_path: Path | None = None,
    ) -> None:
        self._clock = SystemClock()
        self._quiet = QuietLog(_log)
        self.balloon: Final = balloon
        balloon.observers.add(FrontEndLog(self._quiet).observe)
        self._timed: tuple[Timed, ...] = ()
        self._state_file = None if state_path is None else StateFile(state_path, self._clock)
        self._restore()
        self.loop: Final = EventLoop(self._work, self._deadline_ns)  #: served by `run`
        self._transfer = StateTransfer(self.loop.post)
        self._sock = sock
        self._connection: Connection | None = None
        self._listening = listening
        self._accept_at_ns: int | None = None  #: when to listen again
        self._timer_ns: int | None = None  #: of all timers the next, as it stood after a turn
        if listening:
            sock.settimeout(0)
            self.loop.register(sock.fileno(), self._accept)
        else:
            self._connect(sock)

    def run(self) -> None:
        """Serve until stopped or, with a connected socket, until the front-end leaves."""
        try:
            self.loop.run()
        finally:
            self.close()
            self.loop.close()

    def add_timed(self, part: Timed) -> None:
        """Serve the timer of somebody else's part too, on the device's thread."""
        self._timed = (*self._timed, part)

    def close(self) -> None:
        """Hang up, on the thread of the loop; whoever made the socket closes it."""
        if self._connection is not None:
            self._connection.flush()
        if self._state_file is not None:
            self._state_file.save(state_of(self.balloon))
        if self._listening:
            self.loop.unregister(self._sock.fileno())
        if self._connection is not None:
            self._connection.close()

    def stop(self) -> None:
        """Let the device end; may be called from a signal handler."""
        self.loop.stop()

    @property
    def guest_memory(self) -> GuestMemory | None:
        """What the front-end shares; None: there is no front-end."""
        return None if self._connection is None else self._connection.memory

    def find_problem(self) -> str | None:
        """What has to be mended at the front-end, in one line; None: nothing that is known."""
        return None if self._connection is None else self._connection.find_problem()

    def execute(self, command: Callable[[], T]) -> T:
        """Let the device do what the host asks for; its memory is looked after before."""
        return command() if self._connection is None else self._connection.execute(command)

    def _restore(self) -> None:
        """Go on where an earlier process stopped. Raises: SettingsError; SystemCallError."""
        if self._state_file is None:
            return
        state = self._state_file.load()
        if state is not None:
            restore_state(self.balloon, state)
        self._state_file.begin(state_of(self.balloon))

    def _deadline_ns(self) -> int | None:
        timer_ns = self.balloon.timer_ns
        if self._accept_at_ns is not None:
            timer_ns = earliest(timer_ns, self._accept_at_ns)
        for part in self._timed:
            timer_ns = earliest(timer_ns, part.deadline_ns)
        if self._state_file is not None:
            timer_ns = earliest(timer_ns, self._state_file.deadline_ns)
        self._timer_ns = timer_ns
        return earliest(timer_ns, self.balloon.ledger.deadline_ns)

    def _work(self) -> bool:
        now_ns = self._clock.now_ns()
        if self._timer_ns is not None and self._timer_ns <= now_ns:
            self._serve_timers(now_ns)
        if self._state_file is not None:
            state = partial(state_of, self.balloon)
            self._state_file.look(self.balloon.target_pages, now_ns, state)
        return self._connection is not None and self._connection.work()

    def _serve_timers(self, now_ns: int) -> None:
        timer_ns = self.balloon.timer_ns
        if timer_ns is not None and timer_ns <= now_ns:
            if self._connection is not None:
                self._connection.tick()
            else:
                self.balloon.tick()
        if self._accept_at_ns is not None and self._accept_at_ns <= now_ns:
            self._accept_at_ns = None
            self.loop.register(self._sock.fileno(), self._accept)
        for part in self._timed:
            if part.deadline_ns is not None and part.deadline_ns <= now_ns:
                part.expired()

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            self._quiet.warn("accept", f"a front-end could not be accepted: {error.strerror}")
            self.loop.unregister(self._sock.fileno())
            self._accept_at_ns = self._clock.now_ns() + _ACCEPT_AGAIN_NS
            return
        if self._connection is not None:
            self._connection.end_if_hung_up()  # its VMM may have left, and come again at once
        if self._connection is not None:
            text = "a second front-end was turned away: this device has one already"
            self._quiet.warn("second", text)
            sock.close()
            return
        try:
            self._connect(sock)
        except OSError as error:  # more descriptors are watched than this user may watch
            self._quiet.warn("accept", f"a front-end could not be served: {error.strerror}")
            sock.close()

    def _connect(self, sock: socket.socket) -> None:
        _log.info("front-end connected")
        self._connection = Connection(
            self.loop,
            sock,
            self.balloon,
            transfer=self._transfer,
            quiet=self._quiet,
            ended=self._disconnected,
        )
        self.balloon.observers.tell(GuestChanged())

    def _disconnected(self) -> None:
        _log.info("front-end disconnected")
        self._connection = None
        self.balloon.observers.tell(GuestChanged())
        if not self._listening:
            self.stop()


def make_server(
    settings: BalloonSettings,
    sock: socket.socket,
    *,
    listening: bool,
    state_path: Path | None = None,
) -> DeviceServer:
    """A server with a device of its own. Raises: SettingsError, SystemCallError."""
    balloon = Balloon(settings, SystemClock())
    return DeviceServer(balloon, sock, listening=listening, state_path=state_path)


@contextmanager
def serving(server: DeviceServer) -> Iterator[DeviceServer]:
    """Run the server on a thread of its own inside the block."""
    thread = Thread(target=server.run, name="ballonet-queues", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
