"""One front-end's connection: its socket, its memory and its descriptors.

Obeys the effects of the session in order.  Whatever the front-end or its guest does ends at most
this connection.  Not here: what a message means (session.py).
"""

from __future__ import annotations

import array
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Generator, Iterator
from typing import Final, assert_never

from ballonet.device.balloon import Balloon
from ballonet.device.effects import (
    ActualChanged,
    Call,
    ChainDone,
    ChainRefused,
    ConfigChanged,
    Discard,
    Emit,
    Event,
    HintRoundChanged,
    Negotiated,
    PagesHinted,
    PagesRejected,
    PagesReported,
    PartDone,
    RingBroken,
    StatsReceived,
)
from ballonet.errors import PeerError, SystemCallError, WireError
from ballonet.memory.dirty_log import DirtyLog
from ballonet.memory.fence import full_fence
from ballonet.memory.mapping import GuestMemory
from ballonet.units import format_bytes
from ballonet.vhost_user.effects import (
    AddRegion,
    Effect,
    FdKind,
    RemoveRegion,
    ReplaceRegions,
    Reply,
    SetBackendChannel,
    SetLog,
    SetVringFd,
)
from ballonet.vhost_user.event_loop import EventLoop
from ballonet.vhost_user.framing import Framer
from ballonet.vhost_user.messages import (
    FDS_MAX,
    RULES,
    BackendRequest,
    Message,
    Request,
    pack_message,
)
from ballonet.vhost_user.notifiers import SEND_FLAGS, adopt_unix_socket
from ballonet.vhost_user.problems import find_problem
from ballonet.vhost_user.quiet_log import QuietLog
from ballonet.vhost_user.session import Session
from ballonet.vhost_user.vring_fds import VringFds
from ballonet.virtio.features import feature_names
from ballonet.virtio.queues import QUEUE_COUNT, QueueRole

__all__ = ["Connection"]

#: Time a turn may spend on rings before everybody else is looked at again.
WORK_PER_TURN_NS: Final = 250_000
#: Time that what waits may take to be dropped when the device ends.
FLUSH_NS_MAX: Final = 1_000_000_000

#: Room for one descriptor too many, so that a message with too many is seen as such.
_FDS_SPACE: Final = socket.CMSG_SPACE((FDS_MAX + 1) * 4)
#: Requests between which the picture of a queue is not whole.
_DESCRIPTIONS: Final = frozenset(
    {
        Request.SET_VRING_NUM,
        Request.SET_VRING_BASE,
        Request.SET_VRING_ADDR,
        Request.SET_VRING_KICK,
        Request.SET_VRING_CALL,
        Request.SET_VRING_ERR,
    }
)
#: Queues whose messages come one after the other, each when the one before is answered.
_FOLLOWED: Final = frozenset({QueueRole.INFLATE, QueueRole.DEFLATE})
_RECEIVE: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_HUNG_UP: Final = select.POLLHUP | select.POLLRDHUP
_CONFIG_CHANGE: Final = pack_message(BackendRequest.CONFIG_CHANGE, reply=False)
_log = logging.getLogger(__name__)


class Connection:
    """Serves one front-end on the loop's thread until either side ends it."""

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        balloon: Balloon,
        *,
        quiet: QuietLog,
        observe: Callable[[Event], None],
        ended: Callable[[], None],
    ) -> None:
        self.memory: Final = GuestMemory()
        self.session: Final = Session(balloon, self.memory, full_fence, self._mark_dirty)
        self._loop, self._sock, self._balloon = loop, sock, balloon
        self._observe, self._ended = observe, ended
        self._framer = Framer()
        self._vring_fds = VringFds(loop, self._kicked)
        self._channel: socket.socket | None = None
        self._dirty_log: DirtyLog | None = None
        self._quiet = quiet  # the device's: a front-end that comes again and again gains no line
        self._unclaimed: set[int] = set()  # received, and not yet taken over or closed
        self._open = True
        self._problem: str | None = None  # the last one logged
        sock.settimeout(0)
        loop.register(sock.fileno(), self._readable)

    def obey(self, effects: Iterator[Effect]) -> None:
        """Do what the device asks for of its own accord."""
        self._guarded(lambda: self._obey_checked(effects))

    def work(self) -> bool:
        """Advance every running ring for one turn; True if there is more to do."""
        if not self._open:
            return False
        tasks, balloon = self.session.tasks, self._balloon
        if tasks and not balloon.ledger.is_full:
            self._guarded(self._advance_tasks)
        if balloon.wants_discard(busy=bool(tasks) and not balloon.ledger.is_full):
            self._guarded(lambda: self._obey_checked(balloon.discard_waiting()))
        return bool(tasks)

    def flush(self) -> None:
        """Drop what waits, for a second at most; before this device ends."""
        if self._open:
            self._guarded(self._flush)

    def _flush(self) -> None:
        end_ns = time.monotonic_ns() + FLUSH_NS_MAX
        for effect in self._balloon.drain():
            self._perform(effect)
            if time.monotonic_ns() >= end_ns:
                waiting = format_bytes(self._balloon.ledger.waiting_bytes)
                _log.warning("%s of the balloon were not dropped in time", waiting)
                return

    def end_if_hung_up(self) -> None:
        """Notice now that the front-end has left; what it had sent before is still obeyed."""
        poll = select.poll()
        poll.register(self._sock, _HUNG_UP)
        if poll.poll(0):
            while self._open:  # nothing more can come, so its end of file does
                self._read_some()

    def find_problem(self) -> str | None:
        """What has to be mended at the front-end; logged when it is new."""
        problem = find_problem(self.session)
        if problem is not None and problem != self._problem:
            self._quiet.warn("problem", problem)
        self._problem = problem
        return problem

    def close(self) -> None:
        """End the connection and give everything back; safe to call again."""
        if not self._open:
            return
        self._open = False
        self._loop.unregister(self._sock.fileno())
        self.session.close()
        self._vring_fds.close()
        self.memory.close()
        if self._dirty_log is not None:
            self._dirty_log.close()
        if self._channel is not None:
            self._channel.close()
        for fd in self._unclaimed:
            os.close(fd)
        self._sock.close()
        self._ended()

    def _kicked(self, queue: int) -> None:
        self.session.kicked(queue)

    def _advance_tasks(self) -> None:
        self.memory.check_files()
        end_ns = time.monotonic_ns() + WORK_PER_TURN_NS
        for queue, task in list(self.session.tasks.items()):
            if self._advance(task, end_ns):
                self.session.tasks.pop(queue, None)
            self.session.log_used_ring(queue)
            if self._balloon.roles[queue] in _FOLLOWED:
                self._loop.expect_more()

    def _advance(self, task: Generator[Effect, None, None], end_ns: int) -> bool:
        """Obey a task's effects until it ends (True) or its time is over."""
        for effect in task:
            self._perform(effect)
            if time.monotonic_ns() >= end_ns or self._balloon.ledger.is_full:
                return False
        return True

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run what a front-end or guest caused; trouble ends this connection only."""
        try:
            action()
        except (WireError, PeerError, SystemCallError) as error:
            self._quiet.warn("refused", f"front-end refused: {error}")
            self.close()
        except Exception:  # a bug of ours must not reach other guests
            _log.exception("this is a bug in ballonet; the front-end is cut off, the device lives")
            self.close()

    def _readable(self) -> None:
        """Read on until a message is whole, or nothing more is there now."""
        while self._open and self._read_some():
            pass

    def _read_some(self) -> bool:
        """Read a piece of a message; True if the rest of it may be there too."""
        try:
            data, fds = self._receive()
        except BlockingIOError:
            return False
        except OSError as error:
            self._quiet.warn("lost", f"front-end lost: {error.strerror}")
            self.close()
            return False
        self._unclaimed.update(fds)
        if not data:
            if self._framer.inside_message:
                self._quiet.warn("lost", "front-end disconnected in the middle of a message")
            self.close()
            return False
        self._guarded(lambda: self._take(data, fds))
        return self._framer.inside_message

    def _receive(self) -> tuple[bytes, list[int]]:
        """Read at most what is missing of this message. Raises: OSError."""
        data, ancillary, _, _ = self._sock.recvmsg(self._framer.wanted, _FDS_SPACE, _RECEIVE)
        if not ancillary:
            return data, []
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        return data, fds.tolist()

    def _take(self, data: bytes, fds: list[int]) -> None:
        message = self._framer.feed(data, fds)
        if message is None:
            return
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s, %d bytes, %d fds", message.name, len(message.payload), len(message.fds))
        try:
            self._handle(message)
        finally:
            for fd in self._unclaimed.intersection(message.fds):
                os.close(fd)
                self._unclaimed.discard(fd)

    def _obey_checked(self, effects: Iterator[Effect]) -> None:
        self.memory.check_files()
        self._obey(effects)
        for queue in range(QUEUE_COUNT):
            self.session.log_used_ring(queue)

    def _obey(self, effects: Iterator[Effect]) -> None:
        for effect in effects:
            self._perform(effect)

    def _handle(self, message: Message) -> None:
        """Obey one message; a refusal is told if the front-end asked, else ends the session."""
        effects = self.session.feed(message)
        try:
            self._obey(effects)
        except (WireError, PeerError, SystemCallError) as error:
            effects.close()
            if not self._may_refuse(message):
                raise
            self._quiet.warn("refusal", f"refused: {error}")
            self._obey(self.session.acknowledge(message, 1))
        if message.code not in _DESCRIPTIONS:
            self.find_problem()

    def _may_refuse(self, message: Message) -> bool:
        """A refusal can be told: the front-end waits for an acknowledgement and nothing else."""
        answers = message.code in RULES and RULES[message.code].replies
        return message.need_reply and self.session.acknowledges and not answers

    def _perform(self, effect: Effect) -> None:  # noqa: C901 - one flat case for each effect
        match effect:
            case Discard(ranges):
                result = self.memory.discard(ranges)
                self._balloon.counters.add_discard(
                    result.calls,
                    result.discarded_bytes,
                    result.failed_bytes,
                    result.split_blocks,
                )
                if result.error is not None:
                    self._quiet.warn("discard", f"discard failed: {result.error.strerror}")
            case Call(queue):
                self._vring_fds.signal(queue, FdKind.CALL)
            case ChainDone() | PartDone():
                pass
            case ConfigChanged():
                self._send_config_change()
            case Emit(event):
                self._report(event)
            case Reply(data):
                self._send(data)
            case SetVringFd(queue, kind, fd):
                self._set_vring_fd(queue, kind, fd)
            case SetBackendChannel(fd):
                self._set_channel(fd)
            case ReplaceRegions(regions, fds):
                self.memory.replace(regions, fds)
            case AddRegion(region, fd):
                self.memory.add(region, fd)
            case RemoveRegion(region):
                self.memory.remove(region)
            case SetLog(area, fd):
                self._set_log(DirtyLog(fd, area.size, area.offset))
            case _:
                assert_never(effect)

    def _set_vring_fd(self, queue: int, kind: FdKind, fd: int | None) -> None:
        try:
            self._vring_fds.put(queue, kind, fd)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SystemCallError("using", f"{kind.name.lower()} fd of {queue}", reason) from error
        if fd is not None:
            self._unclaimed.discard(fd)

    def _set_channel(self, fd: int) -> None:
        try:
            channel = adopt_unix_socket(fd)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SystemCallError("using", "the back-end channel", reason) from error
        old, self._channel = self._channel, channel
        self._unclaimed.discard(fd)
        if old is not None:
            old.close()

    def _mark_dirty(self, gpa: int, length: int) -> None:
        if self._dirty_log is not None:
            self._dirty_log.mark(gpa, length)

    def _set_log(self, log: DirtyLog) -> None:
        if self._dirty_log is not None:
            self._dirty_log.close()
        self._dirty_log = log

    def _send_config_change(self) -> None:
        """Tell the driver; where the channel is full an earlier message still waits to be read."""
        if self._channel is None:
            self._quiet.warn("channel", "no channel to tell the driver of the new target")
            return
        try:
            self._channel.send(_CONFIG_CHANGE, SEND_FLAGS)
        except BlockingIOError:
            return
        except OSError as error:
            self._quiet.warn("channel", f"telling of the new target: {error.strerror}")

    def _send(self, data: bytes) -> None:
        try:
            sent = self._sock.send(data, SEND_FLAGS)
        except OSError as error:
            raise SystemCallError("answering", "front-end", error.strerror or "") from error
        if sent != len(data):
            raise SystemCallError("answering", "front-end", "it does not read its replies")

    def _report(self, event: Event) -> None:
        """Log what an operator should see, and pass the event on."""
        match event:
            case RingBroken(queue, reason):
                self._quiet.warn("ring", f"the driver broke ring {queue}: {reason}")
                self._vring_fds.signal(queue, FdKind.ERR)
            case ChainRefused(role, reason):
                name = role.name.lower() if role else "unused"
                self._quiet.warn("chain", f"{name} chain returned unread: {reason}")
            case PagesRejected(role, count):
                name = role.name.lower()
                self._quiet.warn("pages", f"{name} named {count} places outside memory")
            case Negotiated(features):
                _log.info("driver accepted %s", ", ".join(feature_names(features)) or "nothing")
            case ActualChanged(pages):
                _log.debug("actual is %d pages", pages)
            case HintRoundChanged(state, cmd_id):
                _log.debug("hint round %#x: %s", cmd_id, state.lower())
            case StatsReceived() | PagesHinted() | PagesReported():
                pass
            case _:
                assert_never(event)
        self._observe(event)
