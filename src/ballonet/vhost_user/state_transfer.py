"""The way of a device's state to and from a front-end, over a descriptor that the front-end gives.

A pipe cannot be used in a way that surely does not wait: its lock can be held by whoever is at its
other end.  So a thread of its own writes or reads it, and a device has one at most.  The thread
knows no device: it is given bytes, or leaves some.  Time and size are bounded; a front-end that
makes even the thread hang loses the transfer, this one and the next, and nothing else.
Source: QEMU docs/interop/vhost-user.rst "Migrating back-end state".
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Final

from ballonet.device.moved_state import BLOB_BYTES_MAX
from ballonet.errors import SessionError, SystemCallError
from ballonet.vhost_user.notifiers import adopt_unix_socket

__all__ = ["TRANSFER_S", "StateTransfer"]

#: A state is smaller than the buffer of any pipe, so this is for whoever passes it on.
TRANSFER_S: Final = 30.0
_PIECE_BYTES: Final = 1 << 14
_REQUEST: Final = "SET_DEVICE_STATE_FD"


class StateTransfer:
    """The transfers of one device; all methods are for its own thread."""

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        """`post` has a function called on the device's thread, and works from any."""
        self._post = post
        self.is_busy = False
        self._result: bytes | OSError | None = None  # None: there was no transfer
        self._ended: Callable[[], None] | None = None
        self._asker = object()  # who began the present one, if he is still there

    def send(self, fd: int, blob: bytes) -> None:
        """Write a state and close the descriptor, which is the caller's no more; waits for nothing.

        Raises: SessionError, if another transfer is under way; SystemCallError.  The descriptor is
        still the caller's then.
        """
        _check_kind(fd, os.O_WRONLY)
        self._begin(fd, partial(_write_all, fd, blob))

    def receive(self, fd: int) -> None:
        """The same for reading a state to its end."""
        _check_kind(fd, os.O_RDONLY)
        self._begin(fd, partial(_read_all, fd))

    def when_ended(self, ended: Callable[[], None]) -> None:
        """Have a function called when the present transfer ends, in place of the one before."""
        self._ended = ended

    def outcome(self) -> bytes:
        """What the last transfer brought: nothing, if it was to send; told once.

        Raises: SessionError, if it failed, or there was none.
        """
        result, self._result = self._result, None
        if result is None:
            raise SessionError("CHECK_DEVICE_STATE", "there was no transfer")
        if isinstance(result, OSError):
            reason = result.strerror or str(result)
            raise SessionError("CHECK_DEVICE_STATE", f"the transfer failed: {reason}")
        return result

    def forget(self) -> None:
        """The front-end is gone: the outcome of what it began is nobody's any more."""
        self._result = self._ended = None
        self._asker = object()

    def _begin(self, fd: int, transfer: Callable[[], bytes]) -> None:
        if self.is_busy:
            raise SessionError(_REQUEST, "another transfer is under way")
        end = partial(self._end, self._asker)
        thread = Thread(
            target=self._run, args=(fd, transfer, end), name="ballonet-state", daemon=True
        )
        self._result = None
        try:
            thread.start()
        except RuntimeError as error:  # this user may have no more threads
            raise SystemCallError("starting", "a transfer of state", str(error)) from error
        self.is_busy = True

    def _run(
        self, fd: int, transfer: Callable[[], bytes], end: Callable[[bytes | OSError], None]
    ) -> None:
        """On the thread."""
        result: bytes | OSError
        try:
            result = transfer()
        except OSError as error:
            result = error
        finally:
            os.close(fd)
        self._post(partial(end, result))

    def _end(self, asker: object, result: bytes | OSError) -> None:
        self.is_busy = False
        if asker is self._asker:
            self._result = result
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()


def _check_kind(fd: int, way: int) -> None:
    """Raises: SystemCallError, unless it is a Unix socket, or the right end of a pipe.

    Nothing is asked of others: a file may be of a file system whose owner answers when he likes,
    and a named pipe lies in one.
    """
    what, reason = "the descriptor for a state", "it is neither a pipe nor a Unix socket"
    try:
        if str(Path(f"/proc/self/fd/{fd}").readlink()).startswith("pipe:["):
            mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        else:
            adopt_unix_socket(fd).detach()
            mode = os.O_RDWR
    except OSError as error:
        raise SystemCallError("using", what, reason) from error
    if mode not in (way, os.O_RDWR):
        raise SystemCallError("using", what, "it is the other end of a pipe")


def _write_all(fd: int, blob: bytes) -> bytes:
    """Raises: OSError."""
    end_s = _begin(fd)
    while blob:
        _wait(fd, select.POLLOUT, end_s)
        with suppress(BlockingIOError):
            blob = blob[os.write(fd, blob) :]
    return b""


def _read_all(fd: int) -> bytes:
    """Raises: OSError."""
    end_s = _begin(fd)
    raw = b""
    while True:
        _wait(fd, select.POLLIN, end_s)
        with suppress(BlockingIOError):
            more = os.read(fd, _PIECE_BYTES)
            if not more:
                return raw
            raw += more
        if len(raw) > BLOB_BYTES_MAX:
            raise OSError(errno.EFBIG, f"more than {BLOB_BYTES_MAX} bytes")


def _begin(fd: int) -> float:
    """When to give up; the front-end may change the flag again, and loses its transfer by it."""
    os.set_blocking(fd, False)
    return time.monotonic() + TRANSFER_S


def _wait(fd: int, events: int, end_s: float) -> None:
    """Raises: TimeoutError."""
    poll = select.poll()
    poll.register(fd, events)
    left_s = end_s - time.monotonic()
    if left_s <= 0 or not poll.poll(left_s * 1000):
        raise TimeoutError(errno.ETIMEDOUT, f"the other end is silent for {TRANSFER_S:.0f} s")
