"""The descriptors of rings that a front-end hands over: owned here, closed here."""

from __future__ import annotations

import os
from collections.abc import Callable

from ballonet.runtime.event_loop import Watcher
from ballonet.vhost_user.notifiers import Notifier, check_kick, make_notifier
from ballonet.vhost_user.vring import FdKind

__all__ = ["VringFds"]


class VringFds:
    """Kick, call and error descriptors of every queue of one front-end."""

    def __init__(self, watcher: Watcher, kicked: Callable[[int], None]) -> None:
        self._watcher, self._kicked = watcher, kicked
        self._kicks: dict[int, int] = {}
        self._notifiers: dict[tuple[int, FdKind], Notifier] = {}
        self._missed: set[tuple[int, FdKind]] = set()

    def put(self, queue: int, kind: FdKind, fd: int | None) -> None:
        """Own `fd` in place of the one before.

        Raises: OSError, if it is of a kind that is of no use or could make us wait; it is still the
        caller's then, and the one before stays.
        """
        if kind is FdKind.KICK:
            self._put_kick(queue, fd)
            return
        notifier = None if fd is None else make_notifier(fd)
        old = self._notifiers.pop((queue, kind), None)
        if old is not None:
            old.close()
        if notifier is not None:
            self._notifiers[queue, kind] = notifier
            if (queue, kind) in self._missed:
                self.signal(queue, kind)

    def signal(self, queue: int, kind: FdKind) -> None:
        """Tell of one event, now or when the descriptor comes."""
        notifier = self._notifiers.get((queue, kind))
        if notifier is None:
            self._missed.add((queue, kind))
            return
        self._missed.discard((queue, kind))
        notifier.signal()

    def close(self) -> None:
        """Close them all."""
        for queue in list(self._kicks):
            self._put_kick(queue, None)
        for notifier in self._notifiers.values():
            notifier.close()
        self._notifiers.clear()

    def _put_kick(self, queue: int, fd: int | None) -> None:
        if fd is not None:
            check_kick(fd)
            # Told of each write and never read: one system call less, and none that could wait.
            self._watcher.register(fd, lambda: self._kicked(queue), edge=True)
        old = self._kicks.pop(queue, None)
        if old is not None:
            self._watcher.unregister(old)
            os.close(old)
        if fd is not None:
            self._kicks[queue] = fd
