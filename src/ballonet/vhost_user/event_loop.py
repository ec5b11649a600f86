"""A plain epoll loop on one thread: the queue thread.

The driver sleeps until each message is used, so what counts here is the way from a readable
descriptor to the function that serves it.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import RLock
from typing import Final, TypeVar

from ballonet.device.clock import NS_PER_S
from ballonet.errors import UsageError

__all__ = ["EventLoop"]

_WAIT_S_MAX: Final = 86_400.0

#: After something happened the loop looks again and again for so long before it sleeps: a driver
#: answers in less, and being woken costs more than all the work on its message.
SPIN_NS: Final = 500_000

T = TypeVar("T")


class EventLoop:
    """Calls a function for each readable descriptor; `post` and `stop` work from any thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._posted: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waking = RLock()  # a signal handler may wake the loop while its thread closes it
        self._stopping = False
        self.register(self._wake_fd, self._run_posted)

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `fd` is readable or hung up. Raises: OSError."""
        self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def unregister(self, fd: int) -> None:
        """Forget a descriptor, which must still be open."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def post(self, action: Callable[[], None]) -> None:
        """Run `action` on the loop's thread, soon."""
        self._posted.append(action)
        self._wake()

    def ask(self, question: Callable[[], T], timeout_s: float) -> T:
        """Run `question` on the loop's thread and return its answer.

        Raises: TimeoutError; UsageError, if the loop has ended; what the question raises.
        """
        if self._wake_fd < 0:
            raise UsageError("the device does not run any more")
        answer: Future[T] = Future()

        def reply() -> None:
            try:
                answer.set_result(question())
            except Exception as error:
                answer.set_exception(error)

        self.post(reply)
        return answer.result(timeout_s)

    def stop(self) -> None:
        """Let `run` return; may be called from a signal handler."""
        self._stopping = True
        self._wake()

    def run(self, work: Callable[[], bool], deadline_ns: Callable[[], int | None]) -> None:
        """Serve until stopped; `work` is called after every turn and says if there is more.

        `deadline_ns` says when the next turn is due even if nothing becomes readable.
        """
        more, busy_until_ns = False, 0
        while not self._stopping:
            is_busy = more or time.monotonic_ns() < busy_until_ns
            if self.turn(0 if is_busy else _wait_s(deadline_ns())):
                busy_until_ns = time.monotonic_ns() + SPIN_NS
            elif is_busy and not more and not _is_due(deadline_ns()):
                continue
            more = work()

    def turn(self, wait_s: float | None) -> bool:
        """Serve what is readable, or becomes so in time; True if anything was."""
        ready = self._epoll.poll(wait_s)
        for fd, _ in ready:
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()
        return bool(ready)

    def close(self) -> None:
        """Give up the loop's own descriptors."""
        with self._waking:
            wake_fd, self._wake_fd = self._wake_fd, -1
            os.close(wake_fd)
        self._epoll.close()

    def _wake(self) -> None:
        with self._waking:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def _run_posted(self) -> None:
        os.eventfd_read(self._wake_fd)
        while self._posted:
            self._posted.popleft()()


def _is_due(deadline_ns: int | None) -> bool:
    return deadline_ns is not None and time.monotonic_ns() >= deadline_ns


def _wait_s(deadline_ns: int | None) -> float | None:
    """Seconds to sleep; None: until something happens. The longest that epoll knows is days."""
    if deadline_ns is None:
        return None
    return min(max(0, deadline_ns - time.monotonic_ns()) / NS_PER_S, _WAIT_S_MAX)
