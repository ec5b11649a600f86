"""A real hv_balloon behind a port of its virtual machine, and the host of ours that it speaks to.

The guest's module `vmbus_stand_in` carries the driver's messages there, where Hyper-V has a bus.

    frame    u32 bytes of the message, little-endian; the message

Whoever is connected to the port is the host: the guest offers its driver the channel then, and
takes it away when the connection ends, so that both begin anew each time.  But a guest that was
busy may not have noticed that there is another host: then it goes on with the old conversation, in
the middle of a frame perhaps.  So a guest that does not begin at the beginning is left, for a
moment, and visited again until it does; so is one whose bytes are no frames.
Not here: what the messages say (hyperv), the guest itself (guests.hyperv_guest).
Source: src/ballonet/guests/modules/vmbus_stand_in.c.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from ballonet.balloon.clock import NS_PER_S, Clock, earliest, is_over
from ballonet.balloon.facts import MessageSent
from ballonet.errors import WireError
from ballonet.hyperv.host import HypervHost
from ballonet.hyperv.layouts import MESSAGE_BYTES_MAX, MessageType
from ballonet.hyperv.message_facts import fact_of
from ballonet.hyperv.parser import parse
from ballonet.hyperv.settings import HypervHostSettings
from ballonet.memory.mapping import GuestMemory
from ballonet.runtime.event_loop import EventLoop, Timed
from ballonet.runtime.quiet_log import QuietLog
from ballonet.runtime.system_clock import SystemClock

__all__ = ["FrameReader", "MakeHost", "VmbusSerial"]

T = TypeVar("T")

_PREFIX_BYTES: Final = 4
#: What a ring of the bus holds, which hv_balloon makes so big in each direction.
_RING_BYTES: Final = 16384
#: Time a turn may spend on what the guest says before the loop looks at everything else again.
_WORK_PER_TURN_NS: Final = 250_000
_CONNECT_AGAIN_NS: Final = 100_000_000
#: How long a guest may take to begin; one that is still booting loses nothing by being left.
_BEGIN_NS: Final = 5 * NS_PER_S
_ANSWER_S: Final = 60.0
_SOURCE: Final = "vmbus_stand_in.c"

#: Makes a host of a clock, its settings, and the way to its guest.
MakeHost = Callable[[Clock, HypervHostSettings, Callable[[bytes], bool]], HypervHost]

_log = logging.getLogger(__name__)


class FrameReader:
    """Messages out of a stream that may be cut anywhere."""

    def __init__(self) -> None:
        self._raw = bytearray()

    def feed(self, data: bytes) -> None:
        """Keep what was read."""
        self._raw += data

    def take(self) -> bytes | None:
        """The next whole message; None: not all of it is there.

        Raises: WireError, if it would be empty or longer than the protocol's messages are.
        """
        if len(self._raw) < _PREFIX_BYTES:
            return None
        length = int.from_bytes(self._raw[:_PREFIX_BYTES], "little")
        if not 0 < length <= MESSAGE_BYTES_MAX:
            raise WireError("frame length", length, f"1 to {MESSAGE_BYTES_MAX}", _SOURCE)
        end = _PREFIX_BYTES + length
        if len(self._raw) < end:
            return None
        message = bytes(self._raw[_PREFIX_BYTES:end])
        del self._raw[:end]
        return message


class VmbusSerial:
    """A `HostServer` of the guest behind one port, until it is stopped.

    `path` is a Unix socket on which the one machine that has the port listens, now or later;
    `memory` is the guest's, and stays its maker's.
    """

    def __init__(
        self,
        settings: HypervHostSettings,
        path: Path,
        memory: GuestMemory,
        make_host: MakeHost = HypervHost,
    ) -> None:
        """Raises: SettingsError, for what the host says of its settings."""
        self._clock = SystemClock()
        self._quiet = QuietLog(_log)
        self.host: Final[HypervHost] = make_host(self._clock, settings, self._send)
        self.loop: Final = EventLoop(self._work, self._deadline_ns)  #: served by `run`
        self._path, self._memory = path, memory
        self._timed: tuple[Timed, ...] = ()
        self._sock: socket.socket | None = None
        self._frames = FrameReader()
        self._has_frames = False  #: some may be left of what was read
        self._connect_at_ns: int | None = self._clock.now_ns()
        self._begin_by_ns: int | None = None  # None: nobody is there, or has begun

    def run(self) -> None:
        """Serve until stopped."""
        try:
            self.loop.run()
        finally:
            self._hang_up()
            self.loop.close()

    def ask(self, question: Callable[[HypervHost], T]) -> T:
        """What the host says to it between two messages.

        Raises: TimeoutError; UsageError, if it has ended; what the question raises.
        """
        return self.loop.ask(lambda: question(self.host), _ANSWER_S)

    def stop(self) -> None:
        """Let it end; may be called from a signal handler."""
        self.loop.stop()

    def add_timed(self, part: Timed) -> None:
        """Serve the timer of somebody else's part too, on the host's thread."""
        self._timed = (*self._timed, part)

    @property
    def guest_memory(self) -> GuestMemory | None:
        """The guest's; None: nobody is behind the port."""
        return None if self._sock is None else self._memory

    def execute(self, command: Callable[[], T]) -> T:
        """Let the host do what it is asked."""
        return command()

    def _deadline_ns(self) -> int | None:
        deadline_ns = earliest(self.host.deadline_ns, self._connect_at_ns, self._begin_by_ns)
        for part in self._timed:
            deadline_ns = earliest(deadline_ns, part.deadline_ns)
        return deadline_ns

    def _work(self) -> bool:
        if is_over(self._connect_at_ns, self._clock.now_ns()):
            self._connect()
        if self._has_frames:
            self._has_frames = self._guarded(self._obey)
        now_ns = self._clock.now_ns()
        if is_over(self._begin_by_ns, now_ns):
            self._lose("it says nothing")
        for part in self._timed:
            if is_over(part.deadline_ns, now_ns):
                part.expired()
        has_more = False
        if is_over(self.host.deadline_ns, now_ns):
            has_more = self._guarded(lambda: self.host.expired(busy=self._has_frames))
        return has_more or self._has_frames

    def _connect(self) -> None:
        """The machine may not listen yet, or not any more."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(0)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _RING_BYTES)
            sock.connect(str(self._path))
            self.loop.register(sock.fileno(), self._readable)
        except OSError:
            sock.close()
            self._connect_at_ns = self._clock.now_ns() + _CONNECT_AGAIN_NS
            return
        self._connect_at_ns = None
        self._begin_by_ns = self._clock.now_ns() + _BEGIN_NS
        self._sock, self._frames, self._has_frames = sock, FrameReader(), False
        self.host.attach(self._memory)

    def _hang_up(self) -> None:
        if self._sock is None:
            return
        self.host.detach()  # what waits is dropped before the guest can know that nobody is there
        self.loop.unregister(self._sock.fileno())
        self._sock.close()
        self._sock, self._has_frames, self._begin_by_ns = None, False, None

    def _lose(self, reason: str) -> None:
        self._quiet.warn("lost", f"guest lost: {reason}")
        self._hang_up()
        self._connect_at_ns = self._clock.now_ns() + _CONNECT_AGAIN_NS

    def _readable(self) -> None:
        """Read once; what is left of the last time is obeyed before, so that little is kept."""
        if self._sock is None or self._has_frames:
            return
        try:
            data = self._sock.recv(_RING_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        if not data:
            self._lose("its machine has closed the port")
            return
        self._frames.feed(data)
        self._has_frames = True

    def _guarded(self, action: Callable[[], bool]) -> bool:
        """What an action says; False after trouble, which ends this connection only."""
        try:
            return action()
        except WireError as error:
            self._lose(str(error))
        except Exception:  # a bug of ours must not end the host
            _log.exception("this is a bug in ballonet; the guest is left, and visited again")
            self._lose("by that bug")
        return False

    def _obey(self) -> bool:
        """Let the host read for one turn; True if there may be more. Raises: WireError."""
        end_ns = time.monotonic_ns() + _WORK_PER_TURN_NS
        while time.monotonic_ns() < end_ns:
            message = self._frames.take()
            if message is None:
                return False
            self._look_for_beginning(message)
            self.host.received(message)
        return True

    def _look_for_beginning(self, message: bytes) -> None:
        """Raises: WireError, if a new guest goes on with an older conversation."""
        kind = int.from_bytes(message[:2], "little")
        if self._begin_by_ns is not None:
            if kind != MessageType.VERSION_REQUEST:
                raise WireError("first message", kind, "asks for a version", _SOURCE)
            self._begin_by_ns = None
        elif kind == MessageType.VERSION_REQUEST and self.host.is_running:
            # The driver was bound anew, while its channel stayed: what it gave may be in use.
            self.host.given.take_back_all()
            self.host.attach(self._memory)

    def _send(self, message: bytes) -> bool:
        """False: there is no room, or nobody there. The kernel takes so short a frame whole."""
        if self._sock is None:
            return False
        try:
            self._sock.send(len(message).to_bytes(_PREFIX_BYTES, "little") + message)
        except OSError:  # a lost connection is noticed where it is read
            return False
        observers = self.host.given.observers
        if observers.want_details:  # what is received, the host tells itself
            fact = fact_of(parse(message))
            observers.tell_detail(MessageSent(fact.name, fact.arguments))
        return True
