"""Commands of the host, obeyed on the balloon's thread, one after the other, and told to observers.

A status of the moment is kept for those who must not wait, if there are any: it is made anew after
each command and, at most so often, after news of the guest.  An idle balloon makes none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Final, Protocol, TypeVar

from ballonet.balloon.facts import CommandGiven, Fact, GuestChanged, Observers
from ballonet.control.status import Status
from ballonet.runtime.event_loop import EventLoop, Timed

__all__ = ["Commands", "KeptStatus", "Server"]

T = TypeVar("T")

#: Between two statuses that are kept: each costs some 10 µs of the balloon's thread.
_KEEP_NS: Final = 2_000_000


class Server(Protocol):
    """Whoever serves a balloon to its guests, whatever kind it is."""

    @property
    def loop(self) -> EventLoop:
        """On whose thread everything happens."""
        ...

    def add_timed(self, part: Timed) -> None:
        """Serve the timer of somebody else's part too."""
        ...

    def execute(self, command: Callable[[], T]) -> T:
        """Let the balloon do what the host asks for; the guest's memory is looked after before."""
        ...


class KeptStatus:
    """The newest status of one balloon; its thread makes it, anybody reads it."""

    def __init__(
        self,
        server: Server,
        observers: Observers,
        look: Callable[[], Status],
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        """`settle` is called before each `look` that somebody asked for."""
        self._look_now, self._settle = look, settle
        self._is_wanted = self._has_news = False
        self.status = look()  #: of a moment ago, since `begin`
        observers.add(self._observe)
        server.add_timed(self)

    @property
    def deadline_ns(self) -> int | None:
        """When the status that is kept is too old."""
        if not self._has_news or not self._is_wanted:
            return None
        return self.status.now_ns + _KEEP_NS

    def begin(self) -> None:
        """Somebody wants it from now on."""
        self._is_wanted = True

    def expired(self) -> None:
        """Keep a status of now."""
        self._has_news = False
        self.status = self._look_now()

    def look(self) -> Status:
        """A status of now; what waits and names no memory is counted first, and waits not."""
        self._settle()
        self.expired()
        return self.status

    def _observe(self, fact: Fact) -> None:
        self._has_news = True
        if self._is_wanted and isinstance(fact, GuestChanged):
            self.expired()  # sizes that it reports at once are of its own memory


class Commands:
    """The way of each command to one balloon."""

    def __init__(self, server: Server, observers: Observers, kept: KeptStatus) -> None:
        self._server, self._observers, self._kept = server, observers, kept

    def give(self, name: str, command: Callable[[], T], **arguments: object) -> Future[T]:
        """Have a command obeyed, and told. Raises: UsageError, if the balloon has ended."""

        def execute() -> T:
            self._tell(name, arguments)
            try:
                return self._server.execute(command)
            finally:
                self._kept.expired()  # whoever waits for the command must not see what was before

        return self._server.loop.put(execute)

    def _tell(self, name: str, arguments: Mapping[str, object]) -> None:
        if self._observers.want_details:
            self._observers.tell_detail(CommandGiven(name, arguments))
