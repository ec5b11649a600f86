"""Our device, made to keep a record of its driver, and to misbehave when it is told to.

It stands at the device's borders: between it and its rings, between it and its driver's transport,
and among its observers.  What is recorded is what the driver did, before the device does anything
about it.
Units: balloon pages.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np

from ballonet.balloon.clock import Clock
from ballonet.balloon.facts import ConfigRead, ConfigWritten, Fact
from ballonet.balloon.memory import BalloonMemory
from ballonet.control.device_control import DeviceControl
from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.device.guest_link import Transport
from ballonet.errors import GuestMemoryError
from ballonet.runtime.system_clock import SystemClock
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.vhost_user.server import DeviceServer
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain, DeviceRing, Piece, read_pieces

__all__ = ["ConfigAccess", "Message", "Record", "ScriptedBalloon", "ScriptedControl"]

T = TypeVar("T")

#: Of the pages of a message so many are looked at.
_SAMPLED: Final = 16
_ASK_TIMEOUT_S: Final = 10.0
_FOR_EVER_NS: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Message:
    """A chain the driver made available."""

    at_s: float
    role: QueueRole | None
    data: bytes  #: what the device may read
    writable: tuple[Piece, ...]
    sample: bytes  #: what the first pages it is about held then

    @property
    def pfns(self) -> list[int]:
        """The page numbers of an inflate or deflate message."""
        return [int(pfn) for pfn in np.frombuffer(self.data, "<u4")]

    @property
    def word(self) -> int:
        """The command of a hint message."""
        return int.from_bytes(self.data, "little")


@dataclass(frozen=True, slots=True)
class ConfigAccess:
    """A read or write of the configuration."""

    at_s: float
    offset: int
    data: bytes
    is_write: bool
    messages_before: int  #: inflates and reports the driver had sent by then


@dataclass(slots=True)
class Record:
    """Everything the driver has done."""

    messages: list[Message] = field(default_factory=list)
    accesses: list[ConfigAccess] = field(default_factory=list)

    def of(self, role: QueueRole, start: int = 0) -> list[Message]:
        """Messages of one queue, from a place in the record on."""
        return [one for one in self.messages[start:] if one.role is role]

    def writes(self, offset: int) -> list[int]:
        """Words written to a field, in order."""
        return [
            int.from_bytes(one.data[:4], "little")
            for one in self.accesses
            if one.is_write and one.offset == offset
        ]


class ScriptedRing:
    """A `DeviceRing` that tells of each chain, and keeps from the device those it is told to."""

    def __init__(self, ring: DeviceRing, keeps: Callable[[Chain], bool]) -> None:
        """`keeps`: asked for each new chain; True: the device does not get it yet."""
        self._ring, self._keeps = ring, keeps
        self.held: list[Chain] = []
        self._released: list[Chain] = []

    def release(self) -> None:
        """Give up every reference to guest memory."""
        self._ring.release()

    def let_go(self) -> None:
        """Let the device have what was held."""
        self._released += self.held
        self.held.clear()

    def pop(self) -> Chain | None:
        """The next chain that is not held. Raises: RingError."""
        if self._released:
            return self._released.pop(0)
        while (chain := self._ring.pop()) is not None:
            if not self._keeps(chain):
                return chain
            self.held.append(chain)
        return None

    def un_pop(self) -> None:
        """Make the chain popped last available again."""
        self._ring.un_pop()

    def push(self, head: int, length: int) -> None:
        """Note a chain as used."""
        self._ring.push(head, length)

    def publish(self) -> bool:
        """Show the driver all that was pushed; True if it wants a call."""
        return self._ring.publish()

    def disable_kicks(self) -> None:
        """Ask the driver not to kick."""
        self._ring.disable_kicks()

    def enable_kicks(self) -> bool:
        """Ask for kicks again; True if chains came in meanwhile. Raises: RingError."""
        return self._ring.enable_kicks()

    @property
    def base(self) -> int:
        """Where another device would have to go on."""
        return self._ring.base


class ScriptedTransport:
    """A `Transport` that keeps calls to itself while it is told to."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.mutes_calls = False
        self._muted: list[int] = []

    def call(self, queue: int) -> None:
        """Tell the driver that the queue has used chains, now or later."""
        if self.mutes_calls:
            self._muted.append(queue)
        else:
            self._transport.call(queue)

    def config_changed(self) -> None:
        """Tell the driver to read its configuration again."""
        self._transport.config_changed()

    def let_go(self) -> None:
        """Tell of all that was muted."""
        self.mutes_calls = False
        while self._muted:
            self._transport.call(self._muted.pop())


class ScriptedBalloon(Balloon):
    """Records its driver; holds answers and calls back on request."""

    def __init__(self, settings: BalloonSettings, clock: Clock) -> None:
        super().__init__(settings, clock)
        self.record: Final = Record()
        self.holds: Final[set[QueueRole]] = set()  #: queues whose messages are not answered
        self.transport: ScriptedTransport | None = None
        self.memory: BalloonMemory | None = None
        self._rings: dict[int, ScriptedRing] = {}
        self.observers.add(self._note_access, details=True)

    def connect(self, memory: BalloonMemory, transport: Transport) -> None:
        """A guest is there."""
        self.memory, self.transport = memory, ScriptedTransport(transport)
        super().connect(memory, self.transport)

    def attach(self, queue: int, ring: DeviceRing) -> None:
        """Let a ring be served, with a look at each of its chains before."""
        role = self.queues.roles[queue]
        self._rings[queue] = ScriptedRing(ring, lambda chain: self._keeps(role, chain))
        super().attach(queue, self._rings[queue])

    def detach(self, queue: int) -> int | None:
        """Forget what was held of this ring."""
        self._rings.pop(queue, None)
        return super().detach(queue)

    def held(self, role: QueueRole) -> int:
        """How many messages of a queue are held."""
        roles = self.queues.roles
        return sum(len(ring.held) for queue, ring in self._rings.items() if roles[queue] is role)

    def let_go(self) -> None:
        """Serve every message that was held, and tell of all that was muted."""
        self.holds.clear()
        for queue, ring in self._rings.items():
            ring.let_go()
            self.process(queue, _FOR_EVER_NS)
        if self.transport is not None:
            self.transport.let_go()

    def call_all(self) -> None:
        """Tell of used chains on every queue, though there are none."""
        for queue, role in enumerate(self.queues.roles):
            if role is not None and queue in self._rings and self.transport is not None:
                self.transport.call(queue)

    def announce(self) -> None:
        """Tell of a configuration change, though there is none."""
        if self.transport is not None:
            self.transport.config_changed()

    def sample(self, pfns: list[int]) -> bytes:
        """What pages hold now."""
        return b"" if self.memory is None else _sample(self.memory, pfns)

    def _keeps(self, role: QueueRole | None, chain: Chain) -> bool:
        if self.memory is not None:
            self.record.messages.append(_message(role, chain, self.memory))
        return role in self.holds

    def _note_access(self, fact: Fact) -> None:
        match fact:
            case ConfigRead(offset, data) | ConfigWritten(offset, data):
                sent = sum(
                    one.role in (QueueRole.INFLATE, QueueRole.REPORTING)
                    for one in self.record.messages
                )
                is_write = isinstance(fact, ConfigWritten)
                access = ConfigAccess(time.monotonic(), offset, bytes(data), is_write, sent)
                self.record.accesses.append(access)


class ScriptedControl(DeviceControl):
    """Controls a device that does what a check says."""

    def __init__(self, settings: BalloonSettings, sock: socket.socket) -> None:
        self._scripted: Final = ScriptedBalloon(settings, SystemClock())
        super().__init__(DeviceServer(self._scripted, sock, listening=True))

    @property
    def record(self) -> Record:
        """What the driver has done; grows while it is looked at."""
        return self._scripted.record

    def hold(self, *roles: QueueRole) -> None:
        """Leave messages of these queues unanswered from now on."""
        self._at_once(lambda: self._scripted.holds.update(roles))

    def mute_calls(self) -> None:
        """Tell of no used chain from now on."""

        def mute() -> None:
            if self._scripted.transport is not None:
                self._scripted.transport.mutes_calls = True

        self._at_once(mute)

    def release(self) -> None:
        """Answer and tell everything."""
        self._at_once(self._scripted.let_go)

    def held(self, role: QueueRole) -> int:
        """How many messages of a queue are held."""
        return self._at_once(lambda: self._scripted.held(role))

    def sample(self, pfns: list[int]) -> bytes:
        """What pages hold now."""
        return self._at_once(lambda: self._scripted.sample(pfns))

    def call_all(self) -> None:
        """Call on every queue for nothing."""
        self._at_once(self._scripted.call_all)

    def announce(self) -> None:
        """Tell of a configuration change that there is not."""
        self._at_once(self._scripted.announce)

    def after(self, action: Callable[[], None]) -> None:
        """Do something on the device's thread."""
        self.server.loop.post(action)

    def _at_once(self, question: Callable[[], T]) -> T:
        return self.server.loop.ask(question, _ASK_TIMEOUT_S)


def _message(role: QueueRole | None, chain: Chain, memory: BalloonMemory) -> Message:
    """A copy of a chain, and of what it is about."""
    try:
        data = read_pieces(memory, chain.readable)
    except GuestMemoryError:
        data = b""
    pfns: list[int] = []
    if role in (QueueRole.INFLATE, QueueRole.DEFLATE):
        pfns = [int(pfn) for pfn in np.frombuffer(data[: len(data) & ~3], "<u4")]
    elif role is QueueRole.REPORTING:
        pfns = [gpa // BALLOON_PAGE_BYTES for gpa, _ in chain.writable]
    return Message(time.monotonic(), role, data, chain.writable, _sample(memory, pfns))


def _sample(memory: BalloonMemory, pfns: list[int]) -> bytes:
    """What the first of these pages hold."""
    found = b""
    for pfn in pfns[:_SAMPLED]:
        try:
            found += bytes(memory.view(pfn * BALLOON_PAGE_BYTES, BALLOON_PAGE_BYTES))
        except GuestMemoryError:
            continue
    return found
