"""What a migration asks of the device behind a front-end, besides what a driver does.

In the order of a migration: `start_log` before the first pass; `take_log` in each; when the guest
stands still `stop_rings`, `take_log` a last time, `save_state`.  At the destination, when the
features are accepted, `load_state`; then the driver's rings start.  If it fails, the source calls
`start_rings` and `stop_log`, and goes on where it stood.
Source: QEMU docs/interop/vhost-user.rst "Migration", "Migrating back-end state".
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import GuestError, UsageError
from ballonet.memory.dirty_log import OwnDirtyLog
from ballonet.vhost_user.back_end_link import BackEndLink, BackEndLostError
from ballonet.vhost_user.back_end_socket import ANSWER_S
from ballonet.vhost_user.frontend_rings import FrontEndRings
from ballonet.vhost_user.messages import LOG_ALL, U64, ProtocolFeature, Request

__all__ = ["STATE_BYTES_MAX", "DeviceMigration"]

#: A balloon knows little of its guest; of any device more than this is refused.
STATE_BYTES_MAX: Final = 1 << 20
_DIRECTION_AND_PHASE: Final = Struct("=II")
_SAVE, _LOAD, _STOPPED = 0, 1, 0
_ERROR, _NO_FD = 0xFF, 1 << 8  # bits of the answer
_PIECE_BYTES: Final = 1 << 16


class DeviceMigration:
    """One front-end's device in a migration."""

    def __init__(
        self, link: BackEndLink, rings: FrontEndRings, say_running: Callable[[], None]
    ) -> None:
        """`say_running` tells the device that its driver is ready again."""
        self._link, self._rings, self._say_running = link, rings, say_running
        self._log: OwnDirtyLog | None = None

    def start_log(self) -> None:
        """Have the device mark what it writes from now on, and any that takes its place.

        Raises: GuestError, if it cannot; MapError.
        """
        if self._log is not None:
            raise UsageError("the device's log is on already")
        can_share = self._link.protocol & ProtocolFeature.LOG_SHMFD
        if not can_share or not self._link.offered & LOG_ALL:
            raise GuestError(f"the device at {self._link.path} cannot tell what it writes")
        self._log = OwnDirtyLog(self._rings.end_gpa)
        try:
            self._rings.set_log(self._log)
        except GuestError:
            self.stop_log()
            raise

    def take_log(self) -> NDArray[np.int64]:
        """Pages the device has written since the last time, ascending; to be read after this."""
        if self._log is None:
            return np.empty(0, np.int64)
        return self._log.take()

    def stop_log(self) -> None:
        """Have nothing marked any more; safe to call again, and while the device is away."""
        log, self._log = self._log, None
        if log is None:
            return
        try:
            self._rings.forget_log()
        finally:
            log.close()

    def stop_rings(self) -> None:
        """Let the device stop; all it wrote is in the log when this returns. Raises: GuestError."""
        self._rings.stop()

    def start_rings(self) -> None:
        """Let the device go on where it stopped; one that is away, when it is there again.

        Raises: GuestError, if it refuses.
        """
        self._rings.are_running = True
        if self._link.is_connected:
            with suppress(BackEndLostError):
                self._rings.start(is_new=False)
                self._say_running()
                self._rings.look_everywhere()

    def save_state(self) -> bytes:
        """What the device knows of its guest; its rings stand still.

        Raises: GuestError, if it cannot tell, or not within `ANSWER_S`; it can go on then.
        """
        ours, theirs = self._begin(_SAVE)
        with ours:
            with theirs:
                self._hand_over(_SAVE, theirs)
            blob = _receive(ours)
        self._check("save")
        return blob

    def load_state(self, blob: bytes) -> None:
        """Let the device go on with a guest that another one had, before its rings start.

        Raises: GuestError, if it refuses the state, or does not take it within `ANSWER_S`.
        """
        if not self._rings.features:
            raise UsageError("a state is loaded after the features were accepted")
        ours, theirs = self._begin(_LOAD)
        with ours:
            with theirs:
                self._hand_over(_LOAD, theirs)
            _send(ours, blob)
        self._check("load")

    def close(self) -> None:
        """Give the log up; the device is gone."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _begin(self, direction: int) -> tuple[socket.socket, socket.socket]:
        """A pair of sockets: whoever holds the other end of a pipe could make us wait for ever."""
        if self._rings.are_running:
            raise UsageError("a state is moved while the rings stand still")
        if not self._link.protocol & ProtocolFeature.DEVICE_STATE:
            what = "tell" if direction == _SAVE else "take"
            raise GuestError(f"the device at {self._link.path} cannot {what} a state")
        return socket.socketpair()

    def _hand_over(self, direction: int, theirs: socket.socket) -> None:
        request = _DIRECTION_AND_PHASE.pack(direction, _STOPPED)
        answer = self._link.ask_once(Request.SET_DEVICE_STATE_FD, request, [theirs.fileno()])
        value = int(U64.unpack(answer)[0])
        if value & _ERROR:
            raise GuestError(f"the device at {self._link.path} refuses to move its state")
        if not value & _NO_FD:
            raise GuestError(f"the device at {self._link.path} wants another descriptor than ours")

    def _check(self, what: str) -> None:
        if U64.unpack(self._link.ask_once(Request.CHECK_DEVICE_STATE))[0]:
            raise GuestError(f"the device at {self._link.path} could not {what} its state")


def _receive(sock: socket.socket) -> bytes:
    """Raises: GuestError."""
    end_s = time.monotonic() + ANSWER_S
    blob = b""
    try:
        while True:
            _wait(sock, select.POLLIN, end_s)
            more = sock.recv(_PIECE_BYTES, socket.MSG_DONTWAIT)
            if not more:
                return blob
            blob += more
            if len(blob) > STATE_BYTES_MAX:
                raise GuestError(f"the device's state is longer than {STATE_BYTES_MAX} bytes")
    except OSError as error:
        raise GuestError(f"the device's state does not come: {error}") from error


def _send(sock: socket.socket, blob: bytes) -> None:
    """Raises: GuestError."""
    end_s = time.monotonic() + ANSWER_S
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    try:
        while blob:
            _wait(sock, select.POLLOUT, end_s)
            blob = blob[sock.send(blob, flags) :]
    except OSError as error:
        raise GuestError(f"the device does not take the state: {error}") from error


def _wait(sock: socket.socket, events: int, end_s: float) -> None:
    """Raises: TimeoutError."""
    poll = select.poll()
    poll.register(sock, events)
    left_s = end_s - time.monotonic()
    if left_s <= 0 or not poll.poll(left_s * 1000):
        raise TimeoutError(f"nothing within {ANSWER_S:.0f} s")
