"""Our device, made to keep a record of its driver, and to misbehave when it is told to.

What is recorded is what the driver did, before the device does anything about it.
Units: balloon pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.device.clock import Clock
from ballonet.device.effects import Call, ConfigChanged, Effect
from ballonet.device.inflation import BalloonMemory
from ballonet.errors import GuestMemoryError
from ballonet.units import BALLOON_PAGE_BYTES
from ballonet.vhost_user.server import DeviceServer
from ballonet.virtio.queues import QueueRole
from ballonet.virtio.ring.chain import Chain, DeviceRing, Piece, read_pieces

__all__ = ["ConfigAccess", "Message", "Record", "ScriptedServer"]

#: Of the pages of a message so many are looked at.
_SAMPLED: Final = 16


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


@dataclass(slots=True)
class _Held:
    queue: int
    ring: DeviceRing
    chain: Chain
    memory: BalloonMemory


class ScriptedBalloon(Balloon):
    """Records its driver; holds answers and calls back on request."""

    def __init__(self, settings: BalloonSettings, clock: Clock) -> None:
        super().__init__(settings, clock)
        self.record: Final = Record()
        self.holds: Final[set[QueueRole]] = set()  #: queues whose messages are not answered
        self.mutes_calls = False
        self.held: Final[list[_Held]] = []
        self._muted: Final[list[int]] = []

    def read_config(self, offset: int, length: int) -> bytes:
        """Record, and answer."""
        data = super().read_config(offset, length)
        self._note_access(offset, data, is_write=False)
        return data

    def write_config(self, offset: int, data: bytes) -> Iterator[Effect]:
        """Record, and take."""
        self._note_access(offset, data, is_write=True)
        yield from super().write_config(offset, data)

    def release(self) -> Iterator[Effect]:
        """Serve every message that was held, and tell of all that was muted."""
        self.holds.clear()
        self.mutes_calls = False
        held = list(self.held)
        self.held.clear()
        for one in held:
            if self.is_attached(one.queue):
                yield from super()._serve(one.queue, one.ring, one.chain, one.memory)
        while self._muted:
            yield Call(self._muted.pop())

    def call_all(self) -> Iterator[Effect]:
        """Tell of used chains on every queue, though there are none."""
        for queue, role in enumerate(self.roles):
            if role is not None and self.is_attached(queue):
                yield Call(queue)

    def announce(self) -> Iterator[Effect]:
        """Tell of a configuration change, though there is none."""
        yield ConfigChanged()

    def detach(self, queue: int) -> int | None:
        """Forget what was held of this ring."""
        kept = [one for one in self.held if one.queue != queue]
        self.held[:] = kept
        return super().detach(queue)

    def process(self, queue: int, memory: BalloonMemory) -> Generator[Effect, None, None]:
        """Work off a ring, without its calls while they are muted."""
        for effect in super().process(queue, memory):
            if self.mutes_calls and isinstance(effect, Call):
                self._muted.append(effect.queue)
            else:
                yield effect

    def _serve(
        self, queue: int, ring: DeviceRing, chain: Chain, memory: BalloonMemory
    ) -> Iterator[Effect]:
        role = self.roles[queue]
        self.record.messages.append(_message(role, chain, memory))
        if role in self.holds:
            self.held.append(_Held(queue, ring, chain, memory))
            return
        yield from super()._serve(queue, ring, chain, memory)

    def _note_access(self, offset: int, data: bytes, *, is_write: bool) -> None:
        sent = sum(
            one.role in (QueueRole.INFLATE, QueueRole.REPORTING) for one in self.record.messages
        )
        self.record.accesses.append(
            ConfigAccess(time.monotonic(), offset, bytes(data), is_write, sent)
        )


class ScriptedServer(DeviceServer):
    """A server whose device does what a check says."""

    _scripted: ScriptedBalloon

    @property
    def record(self) -> Record:
        """What the driver has done; grows while it is looked at."""
        return self._scripted.record

    def hold(self, *roles: QueueRole) -> None:
        """Leave messages of these queues unanswered from now on."""
        self._ask(lambda: self._scripted.holds.update(roles))

    def mute_calls(self) -> None:
        """Tell of no used chain from now on."""

        def mute() -> None:
            self._scripted.mutes_calls = True

        self._ask(mute)

    def release(self) -> None:
        """Answer and tell everything."""
        self._post(self._scripted.release)

    def held(self, role: QueueRole) -> int:
        """How many messages of a queue are held."""
        roles = self._scripted.roles
        return self._ask(lambda: sum(roles[one.queue] is role for one in self._scripted.held))

    def sample(self, pfns: list[int]) -> bytes:
        """What pages hold now."""
        memory = self._connection.memory if self._connection else None
        return b"" if memory is None else self._ask(lambda: _sample(memory, pfns))

    def call_all(self) -> None:
        """Call on every queue for nothing."""
        self._post(self._scripted.call_all)

    def announce(self) -> None:
        """Tell of a configuration change that there is not."""
        self._post(self._scripted.announce)

    def after(self, action: Callable[[], None]) -> None:
        """Do something on the device's thread."""
        self.loop.post(action)

    def _make_balloon(self, settings: BalloonSettings) -> Balloon:
        self._scripted = ScriptedBalloon(settings, self._clock)
        return self._scripted


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
