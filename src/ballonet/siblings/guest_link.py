"""A guest of ours at its host: it connects, shows its memory, and comes again after a loss.

A host that goes away may come back as another process that knows nothing, and one that lives may
have forgotten the guest.  Until it has welcomed the guest anew it may still drop what it was given,
so nothing of that is used before.
Not here: what is said afterwards (drivers in vmware, hyperv; guests).
"""

from __future__ import annotations

import logging
import select
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ballonet.errors import GuestError, WireError
from ballonet.runtime.event_loop import Watcher
from ballonet.siblings.framing import Frame, FrameKind, Hello, pack_frame
from ballonet.siblings.link import Link

__all__ = ["GuestLink"]

#: For a host that was asked at boot; one that serves welcomes at once.
_ANSWER_S: Final = 30.0
#: Between two tries to find a host that went away.
_AGAIN_NS: Final = 100_000_000
_log = logging.getLogger(__name__)


class GuestLink:
    """One path at which a host listens; belongs to the thread of the guest's loop."""

    def __init__(
        self,
        watcher: Watcher,
        path: Path,
        hello: Hello,
        fds: Sequence[int],
        *,
        received: Callable[[Frame], None],
        found_again: Callable[[], None],
    ) -> None:
        """`fds`: of the files of the regions, which stay the caller's.

        `received` may raise WireError, which ends the connection; `found_again`: a host has
        welcomed the guest after another one, or the same, was lost.
        """
        self._watcher, self._path, self._hello, self._fds = watcher, path, hello, fds
        self._received, self._found_again = received, found_again
        self._link: Link | None = None
        self._is_welcome = False
        self._try_ns = 0
        self.reconnections = 0

    @property
    def is_connected(self) -> bool:
        """A host has welcomed the guest."""
        return self._is_welcome

    @property
    def deadline_ns(self) -> int | None:
        """When a lost host is to be looked for, by the monotonic clock."""
        return self._try_ns if self._link is None else None

    def connect(self) -> None:
        """Find the host, and wait for its welcome. Raises: GuestError, with what it says."""
        link = self._introduce()
        try:
            frame = _first_frame(link)
        except BaseException:
            link.close()
            raise
        if frame.kind is not FrameKind.WELCOME:
            link.close()
            raise GuestError(f"the host at {self._path} refuses the guest: {frame.reason}")
        self._link, self._is_welcome = link, True
        self._watcher.register(link.fileno(), self._readable)

    def reconnect(self) -> None:
        """Look for a host, if there is none and it is time; what it answers comes later."""
        now_ns = time.monotonic_ns()
        if self._link is not None or now_ns < self._try_ns:
            return
        self._try_ns = now_ns + _AGAIN_NS
        try:
            self._link = self._introduce()
        except GuestError as error:
            _log.debug("%s", error)
        else:
            self._watcher.register(self._link.fileno(), self._readable)

    def send(self, kind: FrameKind, body: bytes) -> bool:
        """Say something; False, if there is no host, or it does not read."""
        if self._link is None or not self._is_welcome:
            return False
        return self._link.send(pack_frame(kind, body))

    def close(self) -> None:
        """Hang up; safe to call again."""
        if self._link is not None:
            self._watcher.unregister(self._link.fileno())
            self._link.close()
        self._link, self._is_welcome = None, False

    def _introduce(self) -> Link:
        """Raises: GuestError, if nobody listens."""
        sock = socket.socket(socket.AF_UNIX)
        link = Link(sock)
        try:
            sock.connect(str(self._path))
        except OSError as error:
            link.close()
            reason = f"no host of {self._hello.kind} answers at {self._path}: {error.strerror}"
            raise GuestError(reason) from error
        # A host that turns everybody away has hung up already, and left its reason to be read.
        link.send(pack_frame(FrameKind.HELLO, self._hello.pack()), self._fds)
        return link

    def _readable(self) -> None:
        link = self._link
        if link is None:
            return
        try:
            link.read()
            while self._link is link and (frame := link.take()) is not None:
                self._take(frame)
        except BlockingIOError:
            return
        except WireError as error:
            self._lose(f"the host says what no host says: {error}")
        except (EOFError, OSError):
            self._lose("the host is gone")

    def _take(self, frame: Frame) -> None:
        """Raises: WireError."""
        if self._is_welcome:
            self._received(frame)
        elif frame.kind is FrameKind.WELCOME:
            self._is_welcome = True
            self.reconnections += 1
            _log.info("the host is back")
            self._found_again()
        else:
            self._lose(f"the host refuses the guest: {frame.reason}")

    def _lose(self, reason: str) -> None:
        _log.info("%s", reason)
        self.close()


def _first_frame(link: Link) -> Frame:
    """The host's answer to the guest's hello. Raises: GuestError."""
    poll = select.poll()
    poll.register(link.fileno(), select.POLLIN)
    end_s = time.monotonic() + _ANSWER_S
    while True:
        left_ms = max(0.0, end_s - time.monotonic()) * 1000
        if not poll.poll(left_ms):
            raise GuestError("the host does not answer")
        try:
            link.read()
            frame = link.take()
        except BlockingIOError:
            continue
        except WireError as error:
            raise GuestError(f"the host says what no host says: {error}") from error
        except (EOFError, OSError) as error:
            raise GuestError("the host hung up") from error
        if frame is not None:
            return frame
