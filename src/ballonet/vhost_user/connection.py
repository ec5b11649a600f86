"""One front-end's connection: its socket, its memory and its descriptors.

Whatever the front-end or its guest does ends at most this connection.
Not here: what a message does (requests), what a chain asks for (device).
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

from ballonet.balloon.facts import Fact, RingBroken
from ballonet.device.balloon import Balloon
from ballonet.errors import PeerError, SystemCallError, WireError
from ballonet.memory.fence import full_fence
from ballonet.memory.mapping import GuestMemory
from ballonet.runtime.event_loop import EventLoop
from ballonet.runtime.quiet_log import QuietLog
from ballonet.units import format_bytes
from ballonet.vhost_user.front_end_links import FrontEndLinks
from ballonet.vhost_user.message_socket import MessageSocket
from ballonet.vhost_user.messages import Message, Request
from ballonet.vhost_user.problems import find_problem
from ballonet.vhost_user.requests.dispatch import ACCESSES, dispatch, refusal
from ballonet.vhost_user.session import Session
from ballonet.vhost_user.state_transfer import StateTransfer
from ballonet.virtio.queues import QueueRole

__all__ = ["Connection"]

T = TypeVar("T")

#: Time a turn may spend on rings before everybody else is looked at again.
WORK_PER_TURN_NS: Final = 250_000
#: Time that what waits may take to be dropped when the device ends.
FLUSH_NS_MAX: Final = 1_000_000_000

#: How soon a problem is looked for again, if nothing but accesses to the configuration come.
_LOOK_AGAIN_S: Final = 1.0

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
_log = logging.getLogger(__name__)


class Connection:
    """Serves one front-end on the loop's thread until either side ends it."""

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        balloon: Balloon,
        *,
        transfer: StateTransfer,
        quiet: QuietLog,
        ended: Callable[[], None],
    ) -> None:
        self.memory: Final = GuestMemory()
        self._loop, self._balloon, self._quiet, self._ended = loop, balloon, quiet, ended
        self._socket = MessageSocket(sock)
        self._links = FrontEndLinks(loop, self._kicked, self._socket.claim, quiet, transfer)
        self._transfer = transfer
        self._postponed: Message | None = None  # until the transfer has ended
        self._session = Session(balloon, self.memory, self._links, full_fence)
        self._vrings = self._session.vrings
        self._open = True
        self._problem: str | None = None  # the last one logged
        self._looked_s = -math.inf  # when it was looked for
        self._known_config_end = 0  # then
        balloon.connect(self.memory, self._links)
        balloon.observers.add(self._observe)
        loop.register(self._socket.fileno(), self._readable)

    def execute(self, command: Callable[[], T]) -> T:
        """Do what the host asks of the device, even if this connection turns out to be cut.

        Raises: what the command raises.
        """
        self._guarded(self.memory.check_files)
        result = command()
        if self._open:
            self._vrings.log_all_written()
        return result

    def tick(self) -> None:
        """Let the device serve its timers."""
        self._guarded(lambda: self.execute(self._balloon.tick))

    def work(self) -> bool:
        """Advance every running ring for one turn; True if there is more to do."""
        if not self._open:
            return False
        balloon, to_serve = self._balloon, self._vrings.to_serve
        if to_serve and not balloon.ledger.is_full:
            self._guarded(self._serve)
        if balloon.inflation.wants_discard(busy=bool(to_serve) and not balloon.ledger.is_full):
            self._guarded(self._discard)
        return bool(to_serve)

    def flush(self) -> None:
        """Drop what waits, for a second at most; before this device ends."""
        if self._open:
            self._guarded(self._flush)

    def end_if_hung_up(self) -> None:
        """Notice now that the front-end has left; what it had sent before is still obeyed."""
        if self._socket.has_hung_up:
            while self._open:  # nothing more can come, so its end of file does
                self._readable()

    def find_problem(self) -> str | None:
        """What has to be mended at the front-end; logged when it is new."""
        problem = find_problem(self._session)
        if problem is not None and problem != self._problem:
            self._quiet.warn("problem", problem)
        self._problem = problem
        return problem

    def close(self) -> None:
        """End the connection and give everything back; safe to call again."""
        if not self._open:
            return
        self._open = False
        self._loop.unregister(self._socket.fileno())
        self._session.close()
        self._balloon.observers.remove(self._observe)
        self._links.close()
        self.memory.close()
        self._socket.close()
        self._ended()

    def _kicked(self, queue: int) -> None:
        self._vrings.kicked(queue)

    def _observe(self, fact: Fact) -> None:
        if isinstance(fact, RingBroken):
            self._links.tell_broken(fact.queue)

    def _serve(self) -> None:
        self.memory.check_files()
        end_ns = time.monotonic_ns() + WORK_PER_TURN_NS
        for queue in list(self._vrings.to_serve):
            if self._balloon.process(queue, end_ns):
                self._vrings.to_serve.discard(queue)
            self._vrings.log_written(queue)
            if self._balloon.queues.roles[queue] in _FOLLOWED:
                self._loop.expect_more()

    def _discard(self) -> None:
        self.memory.check_files()
        self._balloon.inflation.discard_waiting()

    def _flush(self) -> None:
        self.memory.check_files()
        end_ns = time.monotonic_ns() + FLUSH_NS_MAX
        while self._balloon.inflation.discard_waiting():
            if time.monotonic_ns() >= end_ns:
                waiting = format_bytes(self._balloon.ledger.waiting_bytes)
                _log.warning("%s of the balloon were not dropped in time", waiting)
                return

    def _guarded(self, action: Callable[[], None]) -> None:
        """Run what a front-end or guest caused; trouble ends this connection only."""
        try:
            action()
        except (WireError, PeerError, SystemCallError) as error:
            self._refuse(error)
        except Exception:  # a bug of ours must not end the device
            _log.exception("this is a bug in ballonet; the front-end is cut off, the device lives")
            self.close()

    def _refuse(self, error: Exception) -> None:
        self._quiet.warn("refused", f"front-end refused: {error}")
        self.close()

    def _readable(self) -> None:
        """Read once, and execute what is whole then; of anything more the loop tells again."""
        try:
            self._socket.read()
        except BlockingIOError:
            return
        except EOFError:
            if self._socket.inside_message:
                self._quiet.warn("lost", "front-end disconnected in the middle of a message")
            self.close()
        except OSError as error:
            self._quiet.warn("lost", f"front-end lost: {error.strerror}")
            self.close()
        else:
            self._guarded(self._take_messages)

    def _take_messages(self) -> None:
        while self._open and self._postponed is None:
            message = self._socket.take()
            if message is None:
                return
            if message.code == Request.CHECK_DEVICE_STATE and self._transfer.is_busy:
                self._postpone(message)
            else:
                self._take(message)

    def _postpone(self, message: Message) -> None:
        """Go on with this message, and read those after it, when the transfer has ended."""
        self._postponed = message
        self._loop.unregister(self._socket.fileno())
        self._transfer.when_ended(lambda: self._guarded(self._read_on))

    def _read_on(self) -> None:
        message, self._postponed = self._postponed, None
        if self._open and message is not None:
            self._loop.register(self._socket.fileno(), self._readable)
            self._take(message)
            self._take_messages()

    def _take(self, message: Message) -> None:
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s, %d bytes, %d fds", message.name, len(message.payload), len(message.fds))
        try:
            answer = self._handle(message)
        finally:
            self._socket.close_unclaimed(message)
        if answer is not None:
            self._socket.send(answer)
        if message.code not in _DESCRIPTIONS and self._may_have_problem(message):
            self.find_problem()

    def _may_have_problem(self, message: Message) -> bool:
        """Accesses come with every message of the balloon; of most a look a second is enough.

        The first one that reaches further shows how far, and no message may ever follow it.
        """
        now_s, config_end = time.monotonic(), self._session.config_end
        is_known = message.code in ACCESSES and config_end == self._known_config_end
        if is_known and now_s < self._looked_s + _LOOK_AGAIN_S:
            return False
        self._looked_s, self._known_config_end = now_s, config_end
        return True

    def _handle(self, message: Message) -> bytes | None:
        """Obey one message; a refusal is told if the front-end asked, else ends the session."""
        try:
            return dispatch(self._session, message)
        except (WireError, PeerError, SystemCallError) as error:
            answer = refusal(self._session, message)
            if answer is None:
                raise
            self._quiet.warn("refusal", f"refused: {error}")
            return answer
