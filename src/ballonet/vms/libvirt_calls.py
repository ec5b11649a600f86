"""Calls of one libvirtd, each on a thread and for a bounded time.

libvirt's calls block, and one of a libvirtd that stands still blocks for ever, as does closing its
connection.  So a connection is never used but by the thread of the call that is made, and goes with
that thread if nobody waits for it any more; the next call connects anew.  A libvirtd that keeps too
many of them waiting is asked nothing more before some have come back.
It is connected to for reading only until something is to be changed: that may need a password.
Units: seconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from types import TracebackType
from typing import Final, Self, TypeVar

from ballonet.errors import BallonetError, MonitorError
from ballonet.vms import libvirt_api
from ballonet.vms.in_thread import in_thread
from ballonet.vms.libvirt_api import Connection, Libvirt
from ballonet.vms.reply import printable

__all__ = ["CALL_S", "LibvirtCalls", "missing_if_gone"]

T = TypeVar("T")

#: For one call, connecting included.
CALL_S: Final = 5.0
_CLOSE_S: Final = 1.0
#: Each is a thread of ours, and most of them one of the twenty that libvirtd works with.
_LATE_MOST: Final = 16

_lock = Lock()
#: Calls that nobody waits for any more and that have not come back, of each libvirtd.
_late: Counter[str] = Counter()


@contextmanager
def missing_if_gone() -> Iterator[None]:
    """Leaves the block where a domain is asked that has ended or is not known."""
    libvirt = libvirt_api.load()
    try:
        yield
    except libvirt.libvirtError as error:
        if _code(error) not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            raise


class LibvirtCalls:
    """One after the other; a context manager, which is connected by its first call."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._link = _Link(uri)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        link, self._link = self._link, _Link(self._uri)
        if link.is_connected:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await in_thread(link.close)

    async def call(
        self,
        question: Callable[[Connection], T],
        *,
        writes: bool = False,
        timeout_s: float = CALL_S,
        asked: str = "libvirtd",
    ) -> T:
        """What it returns or raises on a thread. Raises: MonitorError.

        `writes`: it changes something; `asked`: who may keep it waiting.
        """
        if _late[self._uri] >= _LATE_MOST:
            raise MonitorError(f"libvirtd does not answer: {_LATE_MOST} calls of it are open")
        work = _Work(self._uri, self._link)
        try:
            async with asyncio.timeout(timeout_s):
                return await in_thread(lambda: work.run(question, writes=writes))
        except TimeoutError:
            raise MonitorError(f"{asked} does not answer within {timeout_s:.0f} s") from None
        finally:
            if work.give_up():
                self._link = _Link(self._uri)


class _Link:
    """A connection, once there is one."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._connection: Connection | None = None
        self._writes = False

    @property
    def is_connected(self) -> bool:
        """It may have been lost since."""
        return self._connection is not None

    def ask(self, question: Callable[[Connection], T], *, writes: bool) -> T:
        """Connect, if need be, and ask. Raises: MonitorError, and whatever the question does."""
        libvirt = libvirt_api.load()
        why_not = ""
        try:
            return question(self._connected(libvirt, writes=writes))
        except libvirt.libvirtError as error:
            why_not = _in_words(libvirt, error, self._uri, is_alive=self._is_alive())
        # Not above: an error that was raised there would keep hold of the connection.
        self.close()
        raise MonitorError(why_not)

    def close(self) -> None:
        """Safe to call again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(libvirt_api.load().libvirtError):
                connection.close()

    def _is_alive(self) -> bool:
        """Its other end is there."""
        return self._connection is not None and bool(self._connection.isAlive())

    def _connected(self, libvirt: Libvirt, *, writes: bool) -> Connection:
        if self._connection is None or (writes and not self._writes):
            self.close()
            self._writes = writes
            opened = libvirt.open if writes else libvirt.openReadOnly
            self._connection = opened(self._uri)
        return self._connection


class _Work:
    """One call on its thread; late, once nobody waits for it any more."""

    def __init__(self, uri: str, link: _Link) -> None:
        self._uri, self._link = uri, link
        self._is_done = self._is_late = False

    def run(self, question: Callable[[Connection], T], *, writes: bool) -> T:
        """The thread's part."""
        try:
            return self._link.ask(question, writes=writes)
        finally:
            with _lock:
                self._is_done = True
                is_late = self._is_late
            if is_late:
                with suppress(BallonetError):
                    self._link.close()
                with _lock:
                    _late[self._uri] -= 1

    def give_up(self) -> bool:
        """Wait for it no more; whether it still goes on."""
        with _lock:
            if not self._is_done:
                self._is_late = True
                _late[self._uri] += 1
            return self._is_late


def _in_words(libvirt: Libvirt, error: Exception, uri: str, *, is_alive: bool) -> str:
    """One line of an error of libvirt's."""
    text = " ".join(printable(str(error)).split())
    code = _code(error)
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return "it is gone"
    denied = (
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
        libvirt.VIR_ERR_ACCESS_DENIED,
    )
    if code in denied or "Permission denied" in text:
        return f"libvirt does not let this user do that at {uri}: {text}"
    return text if is_alive else f"libvirtd does not answer: {text}"


def _code(error: Exception) -> object:
    """Which error of virErrorNumber it is."""
    return getattr(error, "get_error_code", lambda: None)()
