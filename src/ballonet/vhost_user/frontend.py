"""The front-end's side of vhost-user: what a VMM does, for a driver that lives in this process.

Owns the socket, the eventfds and the channel for messages of the back-end; calls the driver through
two functions it is given.  A back-end that goes away is connected again: the rings are in guest
memory, so the next one goes on where the last one stopped.
Not here: guest memory (whoever made it), what is in the rings (driver).
Source: QEMU docs/interop/vhost-user.rst.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from ballonet.errors import GuestError, WireError
from ballonet.memory.regions import Region
from ballonet.runtime.event_loop import Watcher
from ballonet.runtime.eventfds import signal_eventfd
from ballonet.vhost_user.back_end_socket import ANSWER_S, BackEndSocket
from ballonet.vhost_user.messages import (
    PROTOCOL_FEATURES_BIT,
    U64,
    ConfigAccess,
    ProtocolFeature,
    Request,
    VringAddresses,
    VringState,
    pack_mem_table,
)
from ballonet.virtio.ring.driver import DriverRing

__all__ = ["FrontEnd", "SharedRegion"]

_WANTED: Final = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.STATUS
)
_ACKNOWLEDGE, _DRIVER, _DRIVER_OK, _FEATURES_OK = 1, 2, 4, 8
_NO_LOG: Final = (1 << 64) - 1
_RETRY_S: Final = 0.1
_GIVE_UP_S: Final = 60.0
#: Rings of a back-end that does not say how long they may be.
_RING_ENTRIES: Final = 256
_log = logging.getLogger(__name__)


class SharedRegion(NamedTuple):
    """Guest memory, and the file it lies in."""

    region: Region
    fd: int


class _LostError(GuestError):
    """The back-end went away in the middle of a request."""


class _Queue(NamedTuple):
    ring: DriverRing
    kick_fd: int
    call_fd: int


class FrontEnd:
    """One device behind a vhost-user socket; a `Transport`."""

    used_align: Final = 4

    def __init__(
        self,
        watcher: Watcher,
        path: Path,
        memory: Sequence[SharedRegion],
        *,
        called: Callable[[int], None],
        config_changed: Callable[[], None],
        reconnected: Callable[[], None] = lambda: None,
    ) -> None:
        self._watcher, self._path, self._memory = watcher, path, tuple(memory)
        self._called, self._config_changed = called, config_changed
        self._reconnected = reconnected
        self._sock: BackEndSocket | None = None
        self._channel: socket.socket | None = None
        self._queues: dict[int, _Queue] = {}
        self._features = 0
        self._protocol = ProtocolFeature(0)
        self._queue_count = 0
        self._is_running = False
        self.reconnections = 0

    def connect(self) -> None:
        """Connect and begin a session. Raises: GuestError."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(str(self._path))
        except OSError as error:
            sock.close()
            raise GuestError(
                f"no balloon device answers at {self._path}: {error.strerror}"
            ) from error
        self._sock = BackEndSocket(sock)
        self._watcher.register(sock.fileno(), self._hung_up)
        try:
            self._begin_session(self._sock)
        except OSError as error:
            self._disconnect()
            raise GuestError(f"the device at {self._path} hung up: {error}") from error
        except GuestError:
            self._disconnect()
            raise

    def close(self) -> None:
        """Hang up; safe to call again."""
        self._disconnect()
        self._drop_queues()

    @property
    def is_connected(self) -> bool:
        """There is a back-end."""
        return self._sock is not None

    def reset(self) -> None:
        """Stop every ring; the back-end forgets the driver. Raises: GuestError."""
        if self._is_running:
            for queue in self._queues:
                self._ask(Request.GET_VRING_BASE, VringState(queue, 0).pack())
            self._set_status(0)
            if self._protocol & ProtocolFeature.RESET_DEVICE:
                self._tell(Request.RESET_DEVICE)
        self._is_running = False
        self._drop_queues()

    def offered(self) -> int:
        """Feature bits of the device."""
        self._set_status(_ACKNOWLEDGE | _DRIVER)
        raw = self._ask(Request.GET_FEATURES)
        return int(U64.unpack(raw)[0]) & ~PROTOCOL_FEATURES_BIT

    def accept(self, features: int) -> None:
        """Settle on features. Raises: GuestError."""
        self._features = features
        self._tell(Request.SET_FEATURES, U64.pack(features | PROTOCOL_FEATURES_BIT))
        self._set_status(_ACKNOWLEDGE | _DRIVER | _FEATURES_OK)

    def queue_size(self, queue: int) -> int:
        """Entries a ring should have; 0 beyond the device's queues."""
        return _RING_ENTRIES if queue < self._queue_count else 0

    def set_queue(self, queue: int, ring: DriverRing) -> None:
        """Tell where a ring lies, when the driver is ready."""
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        entry = _Queue(ring, os.eventfd(0, flags), os.eventfd(0, flags))
        self._queues[queue] = entry
        # Told of each write and never read: the back-end shares it, and a read could wait.
        self._watcher.register(entry.call_fd, lambda: self._called(queue), edge=True)

    def driver_ok(self) -> None:
        """Share the memory and start the rings. Raises: GuestError."""
        self._is_running = True
        self._start_rings(is_new=True)

    def read_config(self, offset: int, length: int) -> bytes:
        """Read the configuration space; waits for a back-end. Raises: GuestError."""
        request = ConfigAccess(offset, 0, bytes(length)).pack()
        answer = self._ask(Request.GET_CONFIG, request, size=len(request))
        try:
            return ConfigAccess.parse(answer).data
        except WireError as error:
            raise GuestError(f"the device answers GET_CONFIG with {error}") from error

    def write_config(self, offset: int, data: bytes) -> None:
        """Write the configuration space; waits for a back-end. Raises: GuestError."""
        request = ConfigAccess(offset, 0, data).pack()
        end_s = time.monotonic() + _GIVE_UP_S
        while True:
            try:
                self._tell(Request.SET_CONFIG, request)
            except _LostError as error:
                self._pause(end_s, error)  # the next back-end must know it too
            else:
                return

    def kick(self, queue: int) -> None:
        """Tell the device of new chains; one that is away will look for itself."""
        signal_eventfd(self._queues[queue].kick_fd)

    def reconnect(self) -> bool:
        """Try to find a back-end again and give it the rings; True if there is one."""
        if self._sock is not None:
            return True
        with suppress(GuestError):
            self.connect()
            if self._is_running:
                self._start_rings(is_new=False)
            self.reconnections += 1
            _log.info("the device is back")
            self._reconnected()
            for queue in self._queues:
                self.kick(queue)
                self._called(queue)
            return True
        self._disconnect()
        return False

    def _begin_session(self, sock: BackEndSocket) -> None:
        """Raises: OSError; GuestError, if the device is none for us."""
        offered = int(U64.unpack(sock.ask(Request.GET_FEATURES))[0])
        if not offered & PROTOCOL_FEATURES_BIT:
            raise GuestError(
                f"the device at {self._path} has no protocol features, so no configuration"
            )
        protocol = int(U64.unpack(sock.ask(Request.GET_PROTOCOL_FEATURES))[0])
        self._protocol = ProtocolFeature(protocol & int(_WANTED))
        if not self._protocol & ProtocolFeature.CONFIG:
            raise GuestError(f"the device at {self._path} has no configuration space")
        sock.send(Request.SET_PROTOCOL_FEATURES, U64.pack(int(self._protocol)))
        sock.send(Request.SET_OWNER)
        self._queue_count = 5
        if self._protocol & ProtocolFeature.MQ:
            self._queue_count = int(U64.unpack(sock.ask(Request.GET_QUEUE_NUM))[0])
        if self._protocol & ProtocolFeature.BACKEND_REQ:
            ours, theirs = socket.socketpair()
            ours.settimeout(0)
            self._channel = ours
            self._watcher.register(ours.fileno(), self._hear_back_end)
            with theirs:
                sock.send(Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])

    def _start_rings(self, *, is_new: bool) -> None:
        """Memory, then every ring, then the driver's readiness."""
        if not is_new:
            self._tell(Request.SET_FEATURES, U64.pack(self._features | PROTOCOL_FEATURES_BIT))
        table = pack_mem_table([shared.region for shared in self._memory])
        self._tell(Request.SET_MEM_TABLE, table, [shared.fd for shared in self._memory])
        for number, (ring, kick_fd, call_fd) in self._queues.items():
            self._tell(Request.SET_VRING_NUM, VringState(number, ring.size).pack())
            self._tell(Request.SET_VRING_BASE, VringState(number, ring.base).pack())
            self._tell(Request.SET_VRING_ADDR, self._addresses(number, ring).pack())
            self._tell(Request.SET_VRING_CALL, U64.pack(number), [call_fd])
            self._tell(Request.SET_VRING_KICK, U64.pack(number), [kick_fd])
            self._tell(Request.SET_VRING_ENABLE, VringState(number, 1).pack())
        self._set_status(_ACKNOWLEDGE | _DRIVER | _FEATURES_OK | _DRIVER_OK)

    def _addresses(self, number: int, ring: DriverRing) -> VringAddresses:
        desc, avail, used = (self._uva(gpa) for gpa in ring.place)
        return VringAddresses(number, 0, desc, used, avail, _NO_LOG)

    def _uva(self, gpa: int) -> int:
        for region, _ in self._memory:
            if region.gpa <= gpa < region.gpa + region.size:
                return region.uva + gpa - region.gpa
        raise GuestError(f"{gpa:#x} is no guest memory")

    def _set_status(self, status: int) -> None:
        if self._protocol & ProtocolFeature.STATUS:
            self._tell(Request.SET_STATUS, U64.pack(status))

    def _ask(self, code: Request, payload: bytes = b"", *, size: int = U64.size) -> bytes:
        """Send a request that has an answer, again after a lost connection. Raises: GuestError."""
        end_s = time.monotonic() + _GIVE_UP_S
        while True:
            try:
                return self._wait_for_back_end().ask(code, payload, size=size)
            except OSError as error:
                self._disconnect()
                self._pause(end_s, error)

    def _tell(self, code: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a request that has none, and wait for its acknowledgement.

        Raises: GuestError, if it is refused.
        """
        sock = self._wait_for_back_end()
        acknowledged = bool(self._protocol & ProtocolFeature.REPLY_ACK)
        try:
            sock.send(code, payload, fds, need_reply=acknowledged)
            result = int(U64.unpack(sock.receive(code))[0]) if acknowledged else 0
        except OSError as error:
            self._disconnect()
            raise _LostError(f"the device was lost at {code.name}: {error}") from error
        if result:
            raise GuestError(f"the device refuses {code.name}")

    def _pause(self, end_s: float, error: Exception) -> None:
        """Before the next try. Raises: GuestError, if there were enough."""
        if time.monotonic() > end_s:
            raise GuestError(f"the device at {self._path} is lost again and again: {error}")
        time.sleep(_RETRY_S)

    def _wait_for_back_end(self) -> BackEndSocket:
        """Raises: GuestError, if none comes for long."""
        end_s = time.monotonic() + _GIVE_UP_S
        while True:
            self.reconnect()
            if self._sock is not None:
                return self._sock
            if time.monotonic() > end_s:
                raise GuestError(f"no balloon device at {self._path} for {_GIVE_UP_S:.0f} s")
            time.sleep(_RETRY_S)

    def _hung_up(self) -> None:
        """The socket is readable though nothing was asked: the back-end is gone, or in disorder."""
        if self._sock is None:
            return
        if self._sock.says_something():
            _log.warning("the device says something nobody asked for")
        _log.info("the device is gone")
        self._disconnect()

    def _hear_back_end(self) -> None:
        """A message of the back-end: there is only one kind, and it carries nothing."""
        if self._channel is None:
            return
        with suppress(BlockingIOError, ConnectionError):
            if self._channel.recv(4096):
                self._config_changed()
            else:
                self._watcher.unregister(self._channel.fileno())

    def _disconnect(self) -> None:
        for sock in (self._sock, self._channel):
            if sock is not None:
                self._watcher.unregister(sock.fileno())
                sock.close()
        self._sock = self._channel = None

    def _drop_queues(self) -> None:
        for queue in self._queues.values():
            self._watcher.unregister(queue.call_fd)
            os.close(queue.kick_fd)
            os.close(queue.call_fd)
        self._queues.clear()
