"""One guest at a host of ours: its socket, its memory, and the conversation over it.

Whatever the guest does ends at most this connection.
Not here: who may connect (host_server.py), what it may ask for (vmware, hyperv).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

from ballonet.balloon.clock import NS_PER_S
from ballonet.errors import GuestMemoryError, PeerError, SessionError, SystemCallError, WireError
from ballonet.memory.backing import write_obstacle
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.regions import RegionTable
from ballonet.memory.runs import DiscardResult, Ranges
from ballonet.runtime.event_loop import EventLoop
from ballonet.runtime.quiet_log import QuietLog
from ballonet.siblings.conversation import Conversation
from ballonet.siblings.framing import REGIONS_MAX, Frame, FrameKind, Hello, pack_frame
from ballonet.siblings.link import Link

__all__ = ["GuestConnection"]

T = TypeVar("T")

#: Time a turn may spend on what a guest says before everybody else is looked at again.
WORK_PER_TURN_NS: Final = 250_000
#: A guest says who it is before anything else; nobody else is served while it does not.
HELLO_NS: Final = 10 * NS_PER_S
#: One that reads nothing of what waits for it for so long is cut off.
DEAF_NS: Final = 60 * NS_PER_S
_log = logging.getLogger(__name__)


class GuestConnection:
    """Serves one guest on the loop's thread until either side ends it."""

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        conversation: Conversation,
        *,
        quiet: QuietLog,
        ended: Callable[[], None],
    ) -> None:
        self.memory: Final = GuestMemory()
        #: When a guest that has not introduced itself is cut off.
        self.deadline_ns: int | None = time.monotonic_ns() + HELLO_NS
        self._loop, self._conversation = loop, conversation
        self._quiet, self._ended = quiet, ended
        self._link = Link(sock)
        self._link.fds_max = REGIONS_MAX
        self._open = True
        self._broken: str | None = None  # as it was logged
        loop.register(self._link.fileno(), self._readable)

    @property
    def is_introduced(self) -> bool:
        """The host has its memory."""
        return self.deadline_ns is None

    def work(self) -> bool:
        """Obey what was received, for one turn; True if there is more."""
        if self._link.has_frame:
            self.guard(self._obey)
        return self._open and self._link.has_frame

    def guard(self, action: Callable[[], T]) -> T | None:
        """Do what a guest caused, or what touches its memory; trouble ends this connection only.

        Returns what was done, None after trouble.
        """
        if not self._open:
            return None
        try:
            self._check()
            result = action()
        except (WireError, PeerError, SystemCallError) as error:
            self.refuse(str(error))
        except Exception:  # a bug of ours must not end the host
            _log.exception("this is a bug in ballonet; the guest is cut off, the host lives")
            self.close()
        else:
            self._look_for_breach()
            return result
        return None

    def refuse(self, reason: str) -> None:
        """Tell why, if that can be, and hang up."""
        self._quiet.warn("refused", f"guest refused: {reason}")
        self._link.send(pack_frame(FrameKind.REFUSAL, reason.encode()))
        self.close()

    def expired(self) -> None:
        """It has not introduced itself in time."""
        self.refuse("it has not said in time who it is")

    def end_if_hung_up(self) -> None:
        """Notice now that the guest has left; what it had sent before is still obeyed."""
        if self._link.has_hung_up:
            while self._open:  # nothing more can come, so its end does
                self._readable()
                self.work()

    def close(self) -> None:
        """End the connection and give everything back; safe to call again."""
        if not self._open:
            return
        self._open = False
        self._loop.unregister(self._link.fileno())
        self._conversation.link = None
        if self.is_introduced:
            self._conversation.host.detach()
        self.memory.close()
        self._link.close()
        self._ended()

    def _readable(self) -> None:
        """Read once; what is whole then is obeyed by `work`."""
        try:
            self._link.read()
        except BlockingIOError:
            return
        except EOFError:
            if self._link.inside_frame:
                self._quiet.warn("lost", "guest disconnected in the middle of a frame")
            self.close()
        except WireError as error:
            self.refuse(str(error))
        except OSError as error:
            self._quiet.warn("lost", f"guest lost: {error.strerror}")
            self.close()

    def _obey(self) -> None:
        end_ns = time.monotonic_ns() + WORK_PER_TURN_NS
        while self._open:
            frame = self._link.take()
            if frame is None:
                return
            if self.is_introduced:
                self._conversation.received(frame)
            else:
                self._introduce(frame)
            if time.monotonic_ns() >= end_ns:
                return

    def _introduce(self, frame: Frame) -> None:
        """Map its memory, and let the host have it.

        Raises: WireError, SessionError, MapError.
        """
        fds = self._link.take_fds()
        try:
            self._map(frame, fds)
        finally:
            for fd in fds:
                os.close(fd)
        self._link.fds_max = 0
        self.deadline_ns = None
        self._conversation.link = self._link
        self._conversation.host.attach(_CheckedMemory(self.memory))
        if not self._link.send(pack_frame(FrameKind.WELCOME)):
            raise PeerError("the guest does not read its answers")

    def _map(self, frame: Frame, fds: list[int]) -> None:
        if frame.kind is not FrameKind.HELLO:
            raise SessionError("hello", f"the first frame is {frame.kind.name}")
        hello, host = Hello.parse(frame.body), self._conversation.host
        if hello.kind != host.kind:
            raise SessionError("hello", f"this is a host of {host.kind}, not of {hello.kind}")
        if len(fds) != len(hello.regions):
            counts = f"{len(hello.regions)} regions with {len(fds)} descriptors"
            raise SessionError("hello", counts)
        for region, fd in zip(hello.regions, fds, strict=True):
            obstacle = _obstacle(fd)
            if obstacle is not None:
                reason = f"guest memory {region.gpa:#x} is of no use: {obstacle}"
                raise SessionError("hello", reason)
        self.memory.replace(hello.regions, fds)

    def _check(self) -> None:
        """Raises: MapError, if its memory must not be touched; PeerError, if it reads nothing."""
        self.memory.check_files()
        if self._link.full_ns >= DEAF_NS:
            raise PeerError("it does not read its messages")

    def _look_for_breach(self) -> None:
        broken = self._conversation.host.broken
        if broken is not None and broken != self._broken:
            self._quiet.warn("broken", f"the guest's driver broke the conversation: {broken}")
        self._broken = broken


class _CheckedMemory:
    """A `BalloonMemory` whose windows may be written to: their file is there, and has a page.

    VMware's host writes its verdicts into the guest's memory; where a file system is full, that
    would end this process by SIGBUS.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory

    @property
    def table(self) -> RegionTable:
        """The regions."""
        return self._memory.table

    def view(self, gpa: int, length: int) -> memoryview:
        """A window on `length` bytes. Raises: GuestMemoryError, if there is no such memory."""
        try:
            return self._memory.view_uva(gpa, length)
        except SessionError as error:
            raise GuestMemoryError(gpa, length) from error

    def discard(self, ranges: Ranges) -> DiscardResult:
        """Drop the host memory behind ranges of one region."""
        return self._memory.discard(ranges)


def _obstacle(fd: int) -> str | None:
    """Why nothing of this file could be written or given back."""
    try:
        return write_obstacle(fd)
    except OSError as error:
        return error.strerror or str(error)
