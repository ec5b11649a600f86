"""A plain epoll loop on one thread: a device's queue thread, or a guest's own.

A driver sleeps until each message is used, so what counts here is the way from a readable
descriptor to the function that serves it.

Theory of operation.  Whoever made the loop gave it two functions.  `work` is called after each turn
in which something was readable, and at the deadline; while it returns True, for there is more to
do, the loop looks at the descriptors between two calls without waiting.  A loop with nothing to do
sleeps until something happens.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import RLock, get_ident
from typing import Any, Final, Protocol, TypeVar

from ballonet.balloon.clock import NS_PER_S
from ballonet.errors import UsageError
from ballonet.runtime.spin import Spin

__all__ = ["EventLoop", "Timed", "Watcher"]

_WAIT_S_MAX: Final = 86_400.0
_ENDED: Final = "the device does not run any more"

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


class Timed(Protocol):
    """Something with a timer."""

    @property
    def deadline_ns(self) -> int | None:
        """When `expired` is to be called, by the monotonic clock; None: never."""
        ...

    def expired(self) -> None:
        """The time has come."""
        ...


class EventLoop:
    """Calls a function for each readable descriptor; a `Watcher`.

    `post`, `ask` and `stop` work from any thread, everything else on the loop's own.
    """

    def __init__(
        self,
        work: Callable[[], bool] = lambda: False,
        deadline_ns: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._work, self._deadline_ns = work, deadline_ns
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._posted: deque[Callable[[], None]] = deque()
        self._questions: set[Future[Any]] = set()  # not answered yet
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waking = RLock()  # a signal handler may wake the loop while its thread closes it
        self._stopping = False
        self._spin = Spin()
        self._has_more = False
        self._timer_ns: int | None = None
        self.turns = 0  #: how often it looked at the descriptors
        self._thread: int | None = None  # on which it runs
        self.register(self._wake_fd, self._run_posted)

    def register(self, fd: int, callback: Callable[[], None], *, edge: bool = False) -> None:
        """Call `callback` whenever `fd` is readable or hung up; `edge`: whenever it becomes so.

        Raises: OSError.
        """
        self._epoll.register(fd, select.EPOLLIN | (select.EPOLLET if edge else 0))
        self._callbacks[fd] = callback

    def unregister(self, fd: int) -> None:
        """Forget a descriptor, which must still be open."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def expect_more(self) -> None:
        """What was served just now will be followed by more at once."""
        self._spin.expect_more(time.monotonic_ns())

    def post(self, action: Callable[[], None]) -> None:
        """Run `action` on the loop's thread, soon, and work then."""
        self._posted.append(action)
        self._wake()

    def ask(self, question: Callable[[], T], timeout_s: float) -> T:
        """Run `question` on the loop's thread, and work then; returns its answer.

        Raises: TimeoutError; UsageError, if the loop has ended; what the question raises.
        """
        return self.put(question).result(timeout_s)

    def put(self, question: Callable[[], T]) -> Future[T]:
        """The same for those who cannot wait here. Raises: UsageError, if the loop has ended."""
        if self._wake_fd < 0:
            raise UsageError(_ENDED)
        answer: Future[T] = Future()

        def reply() -> None:
            self._questions.discard(answer)
            try:
                answer.set_result(question())
            except Exception as error:
                answer.set_exception(error)

        self._questions.add(answer)
        self.post(reply)
        return answer

    @property
    def runs_elsewhere(self) -> bool:
        """Another thread runs it: whatever is not for any thread must be asked for."""
        return self._thread not in (None, get_ident())

    @property
    def has_questions(self) -> bool:
        """Somebody waits for an answer."""
        return bool(self._questions)

    def stop(self) -> None:
        """Let `run` return; may be called from a signal handler."""
        self._stopping = True
        self._wake()

    def run(self) -> None:
        """Serve until stopped."""
        self._thread = get_ident()
        self._has_more, self._timer_ns = self._work(), self._deadline_ns()
        while not self._stopping:
            self.step()

    def step(self) -> bool:
        """One look at the descriptors, and the work that follows; True if anything was readable."""
        now_ns, timer_ns = time.monotonic_ns(), self._timer_ns
        has_work = self._has_more or (timer_ns is not None and timer_ns <= now_ns)
        looks_on = has_work or self._spin.looks_on(now_ns)
        was_ready = self.turn(0 if looks_on else _wait_s(timer_ns, now_ns))
        if was_ready or has_work:
            self._spin.worked()
            self._has_more = self._work()
            self._timer_ns = self._deadline_ns()
        return was_ready

    def turn(self, wait_s: float | None) -> bool:
        """Serve what is readable, or becomes so in time; True if anything was."""
        self.turns += 1
        ready = self._epoll.poll(wait_s)
        for fd, _ in ready:
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()
        return bool(ready)

    def close(self) -> None:
        """Give up the loop's own descriptors."""
        self._thread = None
        with self._waking:
            wake_fd, self._wake_fd = self._wake_fd, -1
            os.close(wake_fd)
        self._epoll.close()
        for answer in list(self._questions):
            answer.set_exception(UsageError(_ENDED))

    def _wake(self) -> None:
        with self._waking:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def _run_posted(self) -> None:
        os.eventfd_read(self._wake_fd)
        while self._posted:
            self._posted.popleft()()


def _wait_s(deadline_ns: int | None, now_ns: int) -> float | None:
    """Seconds to sleep; None: until something happens. The longest that epoll knows is days."""
    if deadline_ns is None:
        return None
    return min((deadline_ns - now_ns) / NS_PER_S, _WAIT_S_MAX)
