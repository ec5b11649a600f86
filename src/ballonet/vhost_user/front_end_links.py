"""Everything that a front-end shares by descriptor, memory aside: owned here, closed here."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from ballonet.errors import SystemCallError
from ballonet.memory.dirty_log import DirtyLog
from ballonet.runtime.event_loop import Watcher
from ballonet.runtime.quiet_log import QuietLog
from ballonet.vhost_user.messages import BackendRequest, LogArea, pack_message
from ballonet.vhost_user.notifiers import SEND_FLAGS, adopt_unix_socket
from ballonet.vhost_user.state_transfer import StateTransfer
from ballonet.vhost_user.vring import FdKind
from ballonet.vhost_user.vring_fds import VringFds

__all__ = ["FrontEndLinks"]

_CONFIG_CHANGE: Final = pack_message(BackendRequest.CONFIG_CHANGE, reply=False)


class FrontEndLinks:
    """A device's `Transport`, and a session's `FrontEndFds`."""

    def __init__(
        self,
        watcher: Watcher,
        kicked: Callable[[int], None],
        claim: Callable[[int], None],
        quiet: QuietLog,
        transfer: StateTransfer,
    ) -> None:
        """`claim` is told of each descriptor that is owned here from now on."""
        self._transfer = transfer
        self._vring_fds = VringFds(watcher, kicked)
        self._claim, self._quiet = claim, quiet
        self._channel: socket.socket | None = None
        self._dirty_log: DirtyLog | None = None

    def put_vring_fd(self, queue: int, kind: FdKind, fd: int | None) -> None:
        """Use a descriptor for a queue from now on; None: none. Raises: SystemCallError."""
        try:
            self._vring_fds.put(queue, kind, fd)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SystemCallError("using", f"{kind.name.lower()} fd of {queue}", reason) from error
        if fd is not None:
            self._claim(fd)

    def set_channel(self, fd: int) -> None:
        """Send our own messages through a descriptor. Raises: SystemCallError."""
        try:
            channel = adopt_unix_socket(fd)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SystemCallError("using", "the back-end channel", reason) from error
        old, self._channel = self._channel, channel
        self._claim(fd)
        if old is not None:
            old.close()

    def set_log(self, fd: int, area: LogArea) -> None:
        """Map the dirty log. Raises: MapError."""
        log = DirtyLog(fd, area.size, area.offset)
        if self._dirty_log is not None:
            self._dirty_log.close()
        self._dirty_log = log

    def mark_dirty(self, gpa: int, length: int) -> None:
        """Note bytes as written in the dirty log."""
        if self._dirty_log is not None:
            self._dirty_log.mark(gpa, length)

    def send_state(self, fd: int, blob: bytes) -> None:
        """Begin to write the device's state. Raises: SessionError, SystemCallError."""
        self._transfer.send(fd, blob)
        self._claim(fd)

    def receive_state(self, fd: int) -> None:
        """Begin to read one. Raises: SessionError, SystemCallError."""
        self._transfer.receive(fd)
        self._claim(fd)

    def state_outcome(self) -> bytes:
        """What was read, by a transfer that has ended. Raises: SessionError, if it failed."""
        return self._transfer.outcome()

    def call(self, queue: int) -> None:
        """Tell the driver that the queue has used chains."""
        self._vring_fds.signal(queue, FdKind.CALL)

    def tell_broken(self, queue: int) -> None:
        """Tell the front-end that a ring is broken."""
        self._vring_fds.signal(queue, FdKind.ERR)

    def config_changed(self) -> None:
        """Tell the driver; where the channel is full an earlier message still waits to be read."""
        if self._channel is None:
            self._quiet.warn("channel", "no channel to tell the driver of the new target")
            return
        try:
            self._channel.send(_CONFIG_CHANGE, SEND_FLAGS)
        except BlockingIOError:
            return
        except OSError as error:
            self._quiet.warn("channel", f"telling of the new target: {error.strerror}")

    def close(self) -> None:
        """Close them all; one that a state goes over is closed at its end."""
        self._transfer.forget()
        self._vring_fds.close()
        if self._dirty_log is not None:
            self._dirty_log.close()
        if self._channel is not None:
            self._channel.close()
