"""The front-end's connection to a back-end, made again whenever the back-end is there again.

Owns the socket and the channel for messages of the back-end.  Not here: the rings (frontend_rings).
Source: QEMU docs/interop/vhost-user.rst.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError
from ballonet.runtime.event_loop import Watcher
from ballonet.vhost_user.back_end_socket import ANSWER_S, BackEndSocket
from ballonet.vhost_user.messages import PROTOCOL_FEATURES_BIT, U64, ProtocolFeature, Request

__all__ = ["BackEndLink", "BackEndLostError"]

_WANTED: Final = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.STATUS
    | ProtocolFeature.DEVICE_STATE
)
_RETRY_S: Final = 0.1
_GIVE_UP_S: Final = 60.0
#: Queues of a back-end that does not say how many it has.
_QUEUES: Final = 5
_log = logging.getLogger(__name__)


class BackEndLostError(GuestError):
    """The back-end went away in the middle of a request, or is away."""


class BackEndLink:
    """One path at which a back-end listens."""

    def __init__(
        self,
        watcher: Watcher,
        path: Path,
        *,
        found_again: Callable[[], None],
        lost: Callable[[], None],
        config_changed: Callable[[], None],
    ) -> None:
        """`found_again` tells a back-end that was away all it has to know. Raises: GuestError."""
        self._watcher, self.path = watcher, path
        self._found_again, self._lost, self._config_changed = found_again, lost, config_changed
        self._sock: BackEndSocket | None = None
        self._channel: socket.socket | None = None
        self.offered = 0  #: feature bits of the device when the session began
        self.protocol = ProtocolFeature(0)  #: what both sides have
        self.queue_count = 0

    @property
    def is_connected(self) -> bool:
        """There is a back-end."""
        return self._sock is not None

    def connect(self) -> None:
        """Connect and begin a session. Raises: GuestError."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(str(self.path))
        except OSError as error:
            sock.close()
            raise GuestError(
                f"no balloon device answers at {self.path}: {error.strerror}"
            ) from error
        self._sock = BackEndSocket(sock)
        self._watcher.register(sock.fileno(), self._hung_up)
        try:
            self._begin_session(self._sock)
        except OSError as error:
            self.disconnect()
            raise GuestError(f"the device at {self.path} hung up: {error}") from error
        except GuestError:
            self.disconnect()
            raise

    def reconnect(self) -> bool:
        """Try to find a back-end again; True if there is one."""
        if self._sock is not None:
            return True
        with suppress(GuestError):
            self.connect()
            self._found_again()
            return True
        self.disconnect()
        return False

    def disconnect(self) -> None:
        """Hang up; safe to call again."""
        if self._sock is not None:
            self._lost()
        for sock in (self._sock, self._channel):
            if sock is not None:
                self._watcher.unregister(sock.fileno())
                sock.close()
        self._sock = self._channel = None

    def ask(self, code: Request, payload: bytes = b"", *, size: int = U64.size) -> bytes:
        """Send a request that has an answer, again after a lost connection. Raises: GuestError."""
        end_s = time.monotonic() + _GIVE_UP_S
        while True:
            self._wait_for_back_end()
            try:
                return self.ask_once(code, payload, size=size)
            except BackEndLostError as error:
                self._pause(end_s, error)

    def ask_once(
        self,
        code: Request,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        size: int = U64.size,
    ) -> bytes:
        """The same for a request that means this back-end only.

        Raises: GuestError; BackEndLostError, if it is away.
        """
        if self._sock is None:
            raise BackEndLostError(f"the device at {self.path} is away")
        try:
            return self._sock.ask(code, payload, fds, size=size)
        except OSError as error:
            self.disconnect()
            raise BackEndLostError(f"the device was lost at {code.name}: {error}") from error

    def tell(self, code: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a request that has none, and wait for its acknowledgement.

        Raises: GuestError, if it is refused; BackEndLostError.
        """
        sock = self._wait_for_back_end()
        acknowledged = bool(self.protocol & ProtocolFeature.REPLY_ACK)
        try:
            sock.send(code, payload, fds, need_reply=acknowledged)
            result = int(U64.unpack(sock.receive(code))[0]) if acknowledged else 0
        except OSError as error:
            self.disconnect()
            raise BackEndLostError(f"the device was lost at {code.name}: {error}") from error
        if result:
            raise GuestError(f"the device refuses {code.name}")

    def tell_each(self, code: Request, payload: bytes) -> None:
        """The same for what the next back-end must be told too, if one is lost over it."""
        end_s = time.monotonic() + _GIVE_UP_S
        while True:
            try:
                self.tell(code, payload)
            except BackEndLostError as error:
                self._pause(end_s, error)
            else:
                return

    def _begin_session(self, sock: BackEndSocket) -> None:
        """Raises: OSError; GuestError, if the device is none for us."""
        self.offered = int(U64.unpack(sock.ask(Request.GET_FEATURES))[0])
        if not self.offered & PROTOCOL_FEATURES_BIT:
            raise GuestError(
                f"the device at {self.path} has no protocol features, so no configuration"
            )
        protocol = int(U64.unpack(sock.ask(Request.GET_PROTOCOL_FEATURES))[0])
        self.protocol = ProtocolFeature(protocol & int(_WANTED))
        if not self.protocol & ProtocolFeature.CONFIG:
            raise GuestError(f"the device at {self.path} has no configuration space")
        sock.send(Request.SET_PROTOCOL_FEATURES, U64.pack(int(self.protocol)))
        sock.send(Request.SET_OWNER)
        self.queue_count = _QUEUES
        if self.protocol & ProtocolFeature.MQ:
            self.queue_count = int(U64.unpack(sock.ask(Request.GET_QUEUE_NUM))[0])
        if self.protocol & ProtocolFeature.BACKEND_REQ:
            ours, theirs = socket.socketpair()
            ours.settimeout(0)
            self._channel = ours
            self._watcher.register(ours.fileno(), self._hear_back_end)
            with theirs:
                sock.send(Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])

    def _pause(self, end_s: float, error: Exception) -> None:
        """Before the next try. Raises: GuestError, if there were enough."""
        if time.monotonic() > end_s:
            raise GuestError(f"the device at {self.path} is lost again and again: {error}")
        time.sleep(_RETRY_S)

    def _wait_for_back_end(self) -> BackEndSocket:
        """Raises: GuestError, if none comes for long."""
        end_s = time.monotonic() + _GIVE_UP_S
        while True:
            self.reconnect()
            if self._sock is not None:
                return self._sock
            if time.monotonic() > end_s:
                raise GuestError(f"no balloon device at {self.path} for {_GIVE_UP_S:.0f} s")
            time.sleep(_RETRY_S)

    def _hung_up(self) -> None:
        """The socket is readable though nothing was asked: the back-end is gone, or in disorder."""
        if self._sock is None:
            return
        if self._sock.says_something():
            _log.warning("the device says something nobody asked for")
        _log.info("the device is gone")
        self.disconnect()

    def _hear_back_end(self) -> None:
        """A message of the back-end: there is only one kind, and it carries nothing."""
        if self._channel is None:
            return
        with suppress(BlockingIOError, ConnectionError):
            if self._channel.recv(4096):
                self._config_changed()
            else:
                self._watcher.unregister(self._channel.fileno())
