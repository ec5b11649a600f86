"""A plain epoll loop on one thread, for any number of workers: the queue thread.

A driver sleeps until each message is used, so what counts here is the way from a readable
descriptor to the function that serves it.

Theory of operation.  A worker is a device: its descriptors, its work and its next deadline.  After
each turn those that something happened to work for a slice of time, one after the other; who has
more to do comes again after the next look at all descriptors.  Deadlines wait in a heap, so a
worker that has nothing to do costs nothing.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from heapq import heappop, heappush
from itertools import count
from threading import RLock
from typing import Final, Protocol, TypeVar

from ballonet.device.clock import NS_PER_S
from ballonet.errors import UsageError

__all__ = ["EventLoop", "Watcher", "Worker"]

_WAIT_S_MAX: Final = 86_400.0

#: How long the loop looks again and again before it sleeps, when a worker expects more: a driver
#: answers in less, and to sleep and be woken costs more than all the work on its message.
SPIN_NS: Final = 500_000

T = TypeVar("T")


class Watcher(Protocol):
    """Calls a function when a descriptor becomes readable."""

    def register(self, fd: int, callback: Callable[[], None], *, edge: bool = False) -> None:
        """Call `callback` whenever `fd` is readable or hung up; `edge`: whenever it becomes so.

        Raises: OSError.
        """
        ...

    def unregister(self, fd: int) -> None:
        """Forget a descriptor, which must still be open."""
        ...


class Worker:
    """One of those who work on a loop."""

    def __init__(
        self, loop: EventLoop, work: Callable[[], bool], deadline_ns: Callable[[], int | None]
    ) -> None:
        self._loop = loop
        self.work, self.deadline_ns = work, deadline_ns
        self.queued_ns: int | None = None  #: where it stands in the loop's heap
        self.has_left = False

    def register(self, fd: int, callback: Callable[[], None], *, edge: bool = False) -> None:
        """Call `callback` whenever `fd` is readable or hung up, and work then. Raises: OSError."""
        self._loop.register(fd, callback, edge=edge, worker=self)

    def unregister(self, fd: int) -> None:
        """Forget a descriptor, which must still be open."""
        self._loop.unregister(fd)

    def post(self, action: Callable[[], None]) -> None:
        """Run `action` on the loop's thread, soon, and work then; from any thread."""

        def act() -> None:
            if not self.has_left:
                action()
                self._loop.touch(self)

        self._loop.post(act)

    def ask(self, question: Callable[[], T], timeout_s: float) -> T:
        """Run `question` on the loop's thread, and work then; returns its answer.

        Raises: TimeoutError; UsageError, if the worker has left; what the question raises.
        """

        def answer() -> T:
            if self.has_left:
                raise UsageError("the device does not run any more")
            self._loop.touch(self)
            return question()

        return self._loop.ask(answer, timeout_s)

    def expect_more(self) -> None:
        """What was served just now will be followed by more at once."""
        self._loop.spin_until_ns = time.monotonic_ns() + SPIN_NS

    def leave(self) -> None:
        """Work no more; on the loop's thread."""
        self.has_left = True


class EventLoop:
    """Calls a function for each readable descriptor; `post` and `stop` work from any thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, tuple[Callable[[], None], Worker | None]] = {}
        self._posted: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waking = RLock()  # a signal handler may wake the loop while its thread closes it
        self._stopping = False
        self._touched: dict[Worker, None] = {}
        self._deadlines: list[tuple[int, int, Worker]] = []
        self._numbers = count()
        self.spin_until_ns = 0
        self.turns = 0  #: how often it looked at the descriptors
        self.register(self._wake_fd, self._run_posted)

    def join(self, work: Callable[[], bool], deadline_ns: Callable[[], int | None]) -> Worker:
        """Let somebody work here; on the loop's thread, or before it runs.

        `work` is called when something happened, and says if there is more to do at once;
        `deadline_ns` says when to work even if nothing happens.
        """
        worker = Worker(self, work, deadline_ns)
        self.touch(worker)
        return worker

    def register(
        self,
        fd: int,
        callback: Callable[[], None],
        *,
        edge: bool = False,
        worker: Worker | None = None,
    ) -> None:
        """Call `callback` whenever `fd` is readable or hung up; `edge`: whenever it becomes so.

        Raises: OSError.
        """
        self._epoll.register(fd, select.EPOLLIN | (select.EPOLLET if edge else 0))
        self._callbacks[fd] = callback, worker

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

    def run(self) -> None:
        """Serve until stopped."""
        while not self._stopping:
            now_ns = time.monotonic_ns()
            if self._deadlines:
                self._touch_due(now_ns)
            self.turn(0 if self._touched or now_ns < self.spin_until_ns else self._wait_s(now_ns))
            if self._touched:
                self._let_work()

    def turn(self, wait_s: float | None) -> bool:
        """Serve what is readable, or becomes so in time; True if anything was."""
        self.turns += 1
        ready = self._epoll.poll(wait_s)
        for fd, _ in ready:
            callback, worker = self._callbacks.get(fd, (None, None))
            if callback is not None:
                callback()
            if worker is not None:
                self._touched[worker] = None
        return bool(ready)

    def touch(self, worker: Worker) -> None:
        """Let a worker work after this turn; on the loop's thread."""
        self._touched[worker] = None

    def close(self) -> None:
        """Give up the loop's own descriptors."""
        with self._waking:
            wake_fd, self._wake_fd = self._wake_fd, -1
            os.close(wake_fd)
        self._epoll.close()

    def _let_work(self) -> None:
        touched, self._touched = self._touched, {}
        for worker in touched:
            if worker.has_left:
                continue
            if worker.work():
                self._touched[worker] = None
            else:
                self._await_deadline(worker)

    def _await_deadline(self, worker: Worker) -> None:
        """See to it that a worker works at its deadline; one that comes to nothing is harmless."""
        deadline_ns = worker.deadline_ns()
        if deadline_ns is None:
            return
        if worker.queued_ns is None or deadline_ns < worker.queued_ns:
            worker.queued_ns = deadline_ns
            heappush(self._deadlines, (deadline_ns, next(self._numbers), worker))

    def _touch_due(self, now_ns: int) -> None:
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            deadline_ns, _, worker = heappop(self._deadlines)
            if worker.queued_ns == deadline_ns:
                worker.queued_ns = None
                self._touched[worker] = None

    def _wait_s(self, now_ns: int) -> float | None:
        """Seconds to sleep; None: until something happens. The longest that epoll knows is days."""
        if not self._deadlines:
            return None
        return min((self._deadlines[0][0] - now_ns) / NS_PER_S, _WAIT_S_MAX)

    def _wake(self) -> None:
        with self._waking:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def _run_posted(self) -> None:
        os.eventfd_read(self._wake_fd)
        while self._posted:
            self._posted.popleft()()
