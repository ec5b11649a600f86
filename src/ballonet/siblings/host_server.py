"""A host of a sibling of virtio's balloon, served to one guest of ours after another.

Everything runs on the thread of its loop, which `run` serves.  The other methods may be called from
any thread.
Not here: what any of the two protocols is (vmware, hyperv), how it is controlled
(sibling_control.py).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final, TypeVar

from ballonet.balloon.clock import Clock, earliest, is_over
from ballonet.balloon.sibling_host import SiblingHost
from ballonet.memory.mapping import GuestMemory
from ballonet.runtime.event_loop import EventLoop, Timed
from ballonet.runtime.quiet_log import QuietLog
from ballonet.runtime.system_clock import SystemClock
from ballonet.siblings.conversation import Conversation
from ballonet.siblings.framing import FrameKind, pack_frame
from ballonet.siblings.guest_connection import GuestConnection
from ballonet.siblings.link import Link
from ballonet.vhost_user.front_end_log import FrontEndLog

__all__ = ["SiblingServer"]

T = TypeVar("T")

#: After a refusal of the system, as when descriptors run out.
_ACCEPT_AGAIN_NS: Final = 500_000_000
_log = logging.getLogger(__name__)


class SiblingServer:
    """Owns the socket it is given; `listening` says whether guests still have to connect."""

    def __init__(self, conversation: Conversation, sock: socket.socket, *, listening: bool) -> None:
        self._clock: Clock = SystemClock()
        self._quiet = QuietLog(_log)
        self._conversation = conversation
        self.host: Final[SiblingHost] = conversation.host
        self.host.given.observers.add(FrontEndLog(self._quiet).observe)
        self._timed: tuple[Timed, ...] = ()
        self.loop: Final = EventLoop(self._work, self._deadline_ns)  #: served by `run`
        self._sock, self._listening = sock, listening
        self._connection: GuestConnection | None = None
        self._accept_at_ns: int | None = None  #: when to listen again
        if listening:
            sock.settimeout(0)
            self.loop.register(sock.fileno(), self._accept)
        else:
            self._connect(sock)

    def run(self) -> None:
        """Serve until stopped or, with a connected socket, until the guest leaves."""
        try:
            self.loop.run()
        finally:
            self.close()
            self.loop.close()

    def add_timed(self, part: Timed) -> None:
        """Serve the timer of somebody else's part too, on the host's thread."""
        self._timed = (*self._timed, part)

    def close(self) -> None:
        """Hang up, on the thread of the loop; whoever made the socket closes it."""
        if self._listening and self._accept_at_ns is None:
            self.loop.unregister(self._sock.fileno())
        if self._connection is not None:
            self._connection.close()

    def stop(self) -> None:
        """Let the host end; may be called from a signal handler."""
        self.loop.stop()

    @property
    def guest_memory(self) -> GuestMemory | None:
        """What the guest shares; None: there is none, or it has not said yet."""
        connection = self._connection
        return connection.memory if connection is not None and connection.is_introduced else None

    def execute(self, command: Callable[[], T]) -> T:
        """Let the host do what it is asked; the guest's memory is looked after before."""
        if self._connection is not None:
            self._connection.guard(lambda: None)
        return command()

    def _deadline_ns(self) -> int | None:
        deadline_ns = earliest(self.host.deadline_ns, self._accept_at_ns)
        if self._connection is not None:
            deadline_ns = earliest(deadline_ns, self._connection.deadline_ns)
        for part in self._timed:
            deadline_ns = earliest(deadline_ns, part.deadline_ns)
        return deadline_ns

    def _work(self) -> bool:
        has_more = self._connection is not None and self._connection.work()
        now_ns = self._clock.now_ns()
        self._serve_timers(now_ns)
        host_ns = self.host.deadline_ns
        if host_ns is not None and host_ns <= now_ns:
            has_more = self._expired(busy=has_more) or has_more
        return has_more

    def _expired(self, *, busy: bool) -> bool:
        if self._connection is None:
            return self.host.expired(busy=busy)
        return bool(self._connection.guard(lambda: self.host.expired(busy=busy)))

    def _serve_timers(self, now_ns: int) -> None:
        connection = self._connection
        if connection is not None and is_over(connection.deadline_ns, now_ns):
            connection.expired()
        if is_over(self._accept_at_ns, now_ns):
            self._accept_at_ns = None
            self.loop.register(self._sock.fileno(), self._accept)
        for part in self._timed:
            if is_over(part.deadline_ns, now_ns):
                part.expired()

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            self._quiet.warn("accept", f"a guest could not be accepted: {error.strerror}")
            self.loop.unregister(self._sock.fileno())
            self._accept_at_ns = self._clock.now_ns() + _ACCEPT_AGAIN_NS
            return
        if self._connection is not None:
            self._connection.end_if_hung_up()  # it may have left, and come again at once
        if self._connection is not None:
            self._turn_away(sock)
            return
        try:
            self._connect(sock)
        except OSError as error:  # more descriptors are watched than this user may watch
            self._quiet.warn("accept", f"a guest could not be served: {error.strerror}")
            sock.close()

    def _turn_away(self, sock: socket.socket) -> None:
        text = "this host has a guest already"
        self._quiet.warn("second", f"a second guest was turned away: {text}")
        link = Link(sock)
        link.send(pack_frame(FrameKind.REFUSAL, text.encode()))
        link.close()

    def _connect(self, sock: socket.socket) -> None:
        _log.info("guest connected")
        self._connection = GuestConnection(
            self.loop, sock, self._conversation, quiet=self._quiet, ended=self._disconnected
        )

    def _disconnected(self) -> None:
        _log.info("guest disconnected")
        self._connection = None
        if not self._listening:
            self.stop()
