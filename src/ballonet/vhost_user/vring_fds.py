"""The descriptors a front-end hands over: owned here, closed here.

All of them are made non-blocking, so that no front-end can make this process wait.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from ballonet.vhost_user.effects import FdKind
from ballonet.vhost_user.event_loop import Watcher

__all__ = ["VringFds"]

_ONE = (1).to_bytes(8, "little")


class VringFds:
    """Kick, call and error descriptors of every queue of one front-end."""

    def __init__(self, watcher: Watcher, kicked: Callable[[int], None]) -> None:
        self._watcher, self._kicked = watcher, kicked
        self._fds: dict[tuple[int, FdKind], int] = {}
        self._missed: set[tuple[int, FdKind]] = set()

    def put(self, queue: int, kind: FdKind, fd: int | None) -> None:
        """Own `fd` in place of the one before. Raises: OSError, if a kick cannot be waited for."""
        if fd is not None:
            os.set_blocking(fd, False)
            if kind is FdKind.KICK:
                self._watch(queue, fd)
        self._drop(queue, kind)
        if fd is None:
            return
        self._fds[queue, kind] = fd
        if (queue, kind) in self._missed:
            self.signal(queue, kind)

    def signal(self, queue: int, kind: FdKind) -> None:
        """Write one event; a descriptor that takes none now has one waiting already."""
        fd = self._fds.get((queue, kind))
        if fd is None:
            self._missed.add((queue, kind))  # made up for when the descriptor comes
            return
        self._missed.discard((queue, kind))
        with contextlib.suppress(OSError):
            os.write(fd, _ONE)

    def close(self) -> None:
        """Close them all."""
        for queue, kind in list(self._fds):
            self._drop(queue, kind)

    def _drop(self, queue: int, kind: FdKind) -> None:
        fd = self._fds.pop((queue, kind), None)
        if fd is not None:
            if kind is FdKind.KICK:
                self._watcher.unregister(fd)
            os.close(fd)

    def _watch(self, queue: int, fd: int) -> None:
        if _is_eventfd(fd):  # never full, so it need not be read: one system call less
            self._watcher.register(fd, lambda: self._kicked(queue), edge=True)
        else:
            self._watcher.register(fd, lambda: self._take_kick(queue, fd))

    def _take_kick(self, queue: int, fd: int) -> None:
        try:
            gone = os.read(fd, 8) == b""
        except BlockingIOError:
            return
        except OSError:
            gone = True
        if gone:  # a hung-up descriptor stays readable for ever: stop looking at it
            self._drop(queue, FdKind.KICK)
        self._kicked(queue)


def _is_eventfd(fd: int) -> bool:
    return str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:[eventfd]"
