"""The session of one front-end: messages in, effects out.

Theory of operation.  A message is checked for shape (messages.py), then handled by the function
`_HANDLERS` names.  A ring runs while its size, addresses and kick descriptor are known, memory is
there and it is enabled; whenever one of these changes the ring is detached and, if all still
hold, attached again at the same place.  A running ring has a *task*, the device's generator,
which the server advances in slices and which is closed before the ring is touched.
Not here: sockets, mappings and descriptors (connection.py).
Source: QEMU docs/interop/vhost-user.rst; the front-ends of User-Mode Linux, QEMU, crosvm and
Cloud Hypervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Final

from ballonet.device.balloon import Balloon
from ballonet.device.effects import Effect as DeviceEffect
from ballonet.device.effects import Emit, Negotiated
from ballonet.errors import SessionError
from ballonet.memory.regions import REGIONS_MAX, Region
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
from ballonet.vhost_user.messages import (
    LOG_ALL,
    PROTOCOL_FEATURES_BIT,
    U64,
    ConfigAccess,
    LogArea,
    Message,
    ProtocolFeature,
    Request,
    VringAddresses,
    VringFd,
    VringState,
    check_shape,
    pack_message,
    parse_mem_table,
    parse_single_region,
)
from ballonet.vhost_user.vring import (
    FRESH_BASES,
    SessionMemory,
    Vring,
    areas_to_log,
    check_addresses,
    check_base,
    check_num,
    make_ring,
)
from ballonet.virtio.features import Feature
from ballonet.virtio.queues import QUEUE_COUNT, QueueRole
from ballonet.virtio.ring.notify import Fence

__all__ = ["Session"]

_OFFERED_PROTOCOL: Final = int(reduce(or_, ProtocolFeature))
_REPLY_ACK: Final = int(ProtocolFeature.REPLY_ACK)
_STATUS_NEEDS_RESET: Final = 64
_ALL: Final = range(QUEUE_COUNT)


@dataclass(slots=True)
class Session:
    """One connection's state; `memory` is changed by the server, in answer to effects."""

    balloon: Balloon
    memory: SessionMemory
    fence: Fence
    mark_dirty: Callable[[int, int], None]  #: guest-physical address and bytes just written
    features: int = 0
    protocol: int = 0
    status: int = 0
    vrings: tuple[Vring, ...] = field(
        default_factory=lambda: tuple(Vring() for _ in range(QUEUE_COUNT))
    )
    tasks: dict[int, Generator[DeviceEffect, None, None]] = field(default_factory=dict)
    config_end: int = 0  #: how far into the configuration space it has reached, in bytes
    inflate_messages_before: int = field(init=False)  #: of other sessions

    def __post_init__(self) -> None:
        self.inflate_messages_before = self.balloon.counters.inflate_messages

    def feed(self, message: Message) -> Generator[Effect, None, None]:
        """Handle one message.

        Raises: WireError, SessionError; nothing has changed then, except that what was set stays
        set if only a ring cannot run with it.
        """
        rule = check_shape(message)
        if rule.needs & ~self.protocol:
            raise SessionError(message.name, f"{ProtocolFeature(rule.needs)!r} not negotiated")
        yield from _HANDLERS[message.code](self, message)
        if not rule.replies:
            yield from self.acknowledge(message, 0)

    def acknowledge(self, message: Message, result: int) -> Iterator[Effect]:
        """Answer 0 for done, 1 for refused, if the front-end asked to be told."""
        if message.need_reply and self.acknowledges:
            yield _reply(message, U64.pack(result))

    @property
    def acknowledges(self) -> bool:
        """Refusals can be told."""
        return bool(self.protocol & _REPLY_ACK)

    def kicked(self, queue: int) -> None:
        """The driver told of new chains, or the server wants the ring looked at."""
        if queue not in self.tasks and self.balloon.is_attached(queue):
            self.tasks[queue] = self.balloon.process(queue, self.memory)

    def log_used_ring(self, queue: int) -> None:
        """Mark what the device may have written to a running ring, if a migration wants to know.

        To be called after work on the ring and before anything else is done.
        """
        if self.features & LOG_ALL and self.balloon.is_attached(queue):
            for area in areas_to_log(self.vrings[queue], self.memory, self.balloon.negotiated):
                self.mark_dirty(*area)

    def close(self) -> None:
        """The front-end is gone: stop every ring and forget its guest."""
        for queue in range(QUEUE_COUNT):
            self._detach(queue)
        self.balloon.forget_guest()

    def get_features(self, message: Message) -> Iterator[Effect]:
        """Every bit this device can do, vhost-user's own among them."""
        if self.protocol and not self.features & PROTOCOL_FEATURES_BIT:
            # User-Mode Linux up to 6.1 at least: its driver leaves, and the rings' memory with it.
            # It can neither disable its rings nor tell of a reset; this question is its barrier.
            self._stop_all()
        ours = int(self.balloon.settings.offered) | PROTOCOL_FEATURES_BIT | LOG_ALL
        yield _reply(message, U64.pack(ours))

    def set_features(self, message: Message) -> Iterator[Effect]:
        """What the driver accepted; may be repeated while rings run, with the log bit changed."""
        features = message.u64()
        unknown = Feature(0)
        for bit in Feature:
            if features & bit & ~int(self.balloon.settings.offered):
                unknown |= bit
        if unknown:
            raise SessionError(message.name, f"{unknown!r} was not offered")
        yield from self.balloon.drain()
        with self._paused(*_ALL):
            self.features = features
            self.balloon.negotiate(features)
        yield Emit(Negotiated(self.balloon.negotiated))

    def get_protocol_features(self, message: Message) -> Iterator[Effect]:
        """vhost-user's own bits."""
        yield _reply(message, U64.pack(_OFFERED_PROTOCOL))

    def set_protocol_features(self, message: Message) -> Iterator[Effect]:
        """The ones the front-end uses; bits not offered are dropped."""
        self.protocol = message.u64() & _OFFERED_PROTOCOL
        yield from ()

    def get_queue_num(self, message: Message) -> Iterator[Effect]:
        """How many queues there may be."""
        # All five, in use or not: User-Mode Linux compares with the slots, not with the queues.
        yield _reply(message, U64.pack(QUEUE_COUNT))

    def set_mem_table(self, message: Message) -> Iterator[Effect]:
        """Other memory than before."""
        regions = [self._with_page_size(region) for region in parse_mem_table(message)]
        yield from self.balloon.drain()
        with self._paused(*_ALL):
            yield ReplaceRegions(regions, message.fds)

    def get_max_mem_slots(self, message: Message) -> Iterator[Effect]:
        """How many regions may be added."""
        yield _reply(message, U64.pack(REGIONS_MAX))

    def add_mem_reg(self, message: Message) -> Iterator[Effect]:
        """One more region."""
        yield from self.balloon.drain()
        with self._paused(*_ALL):
            region = self._with_page_size(parse_single_region(message))
            yield AddRegion(region, message.fds[0])

    def rem_mem_reg(self, message: Message) -> Iterator[Effect]:
        """One region less."""
        yield from self.balloon.drain()
        with self._paused(*_ALL):
            yield RemoveRegion(parse_single_region(message))

    def set_log_base(self, message: Message) -> Iterator[Effect]:
        """Where to mark what the device writes."""
        yield SetLog(LogArea.parse(message.payload), message.fds[0])
        yield _reply(message, U64.pack(0))

    def set_vring_num(self, message: Message) -> Iterator[Effect]:
        """How many entries a ring has."""
        queue, num = VringState.parse(message.payload)
        vring = self._vring(message, queue)
        check_num(message.name, num, packed=self._may_be_packed)
        with self._paused(queue):
            vring.num = num
        yield from ()

    def set_vring_addr(self, message: Message) -> Iterator[Effect]:
        """Where a ring lies; may be repeated while it runs."""
        addresses = VringAddresses.parse(message.payload)
        vring = self._vring(message, addresses.queue)
        check_addresses(message.name, addresses, packed=self._is_packed)
        with self._paused(addresses.queue):
            vring.addresses = addresses
        yield from ()

    def set_vring_base(self, message: Message) -> Iterator[Effect]:
        """Where in a ring to begin."""
        queue, base = VringState.parse(message.payload)
        vring = self._vring(message, queue)
        check_base(message.name, base, packed=self._may_be_packed)
        with self._paused(queue):
            vring.base = base
        yield from ()

    def get_vring_base(self, message: Message) -> Iterator[Effect]:
        """Stop a ring, and say where another device would go on; a held buffer is before that."""
        queue, _ = VringState.parse(message.payload)
        vring = self._vring(message, queue)
        yield from self.balloon.drain()
        self._detach(queue)
        vring.has_kick = vring.has_call = False
        yield SetVringFd(queue, FdKind.KICK, None)
        yield SetVringFd(queue, FdKind.CALL, None)
        yield _reply(message, VringState(queue, vring.base).pack())

    def set_vring_kick(self, message: Message) -> Iterator[Effect]:
        """What tells of new chains."""
        queue, has_fd = VringFd.parse(message)
        vring = self._vring(message, queue)
        if not has_fd:
            raise SessionError(message.name, "a ring without kicks would have to be polled")
        with self._paused(queue):
            yield SetVringFd(queue, FdKind.KICK, message.fds[0])
            vring.has_kick = True

    def set_vring_call(self, message: Message) -> Iterator[Effect]:
        """How to tell of used chains."""
        effect = self._other_vring_fd(message, FdKind.CALL)
        yield effect
        self.vrings[effect.queue].has_call = effect.fd is not None

    def set_vring_err(self, message: Message) -> Iterator[Effect]:
        """How to tell of a broken ring."""
        yield self._other_vring_fd(message, FdKind.ERR)

    def set_vring_enable(self, message: Message) -> Iterator[Effect]:
        """Let a ring run, or pause it; its place is kept."""
        queue, enable = VringState.parse(message.payload)
        vring = self._vring(message, queue)
        if enable > 1:
            raise SessionError(message.name, f"{enable} is neither 0 nor 1")
        if not enable:
            yield from self.balloon.drain()
        # QEMU enables queues it never set up; those just stay as they are.
        with self._paused(queue):
            vring.enabled = bool(enable)
        yield from ()

    def set_backend_req_fd(self, message: Message) -> Iterator[Effect]:
        """A channel for messages of our own."""
        yield SetBackendChannel(message.fds[0])

    def get_config(self, message: Message) -> Iterator[Effect]:
        """The driver reads its configuration."""
        access = ConfigAccess.parse(message.payload)
        self._note_access(access)
        data = self.balloon.read_config(access.offset, len(access.data))
        yield _reply(message, access._replace(data=data).pack())

    def set_config(self, message: Message) -> Iterator[Effect]:
        """The driver writes its configuration; what it may not write is ignored."""
        access = ConfigAccess.parse(message.payload)
        self._note_access(access)
        yield from self.balloon.write_config(access.offset, access.data)

    def get_status(self, message: Message) -> Iterator[Effect]:
        """The status last set, and whether the device needs a reset."""
        broken = _STATUS_NEEDS_RESET if self.balloon.broken else 0
        yield _reply(message, U64.pack(self.status | broken))

    def set_status(self, message: Message) -> Iterator[Effect]:
        """The status of the driver; 0 is a reset."""
        self.status = message.u64() & 0xFF
        if self.status == 0:
            self._reset()
        yield from ()

    def reset_device(self, _: Message) -> Iterator[Effect]:
        """Virtio reset: rings stop, the target stays."""
        self._reset()
        yield from ()

    def nothing(self, _: Message) -> Iterator[Effect]:
        """A message that changes nothing here."""
        yield from ()

    def _note_access(self, access: ConfigAccess) -> None:
        self.config_end = max(self.config_end, access.offset + len(access.data))

    def _with_page_size(self, region: Region) -> Region:
        return replace(region, page_bytes=self.balloon.settings.host_page_bytes)

    def _reset(self) -> None:
        for vring in self.vrings:
            vring.enabled = False
        self._stop_all()

    def _stop_all(self) -> None:
        """Stop every ring until it is set up anew, and reset the device."""
        for queue, vring in enumerate(self.vrings):
            self._detach(queue)
            vring.has_kick = False
        self.balloon.reset()

    def _other_vring_fd(self, message: Message, kind: FdKind) -> SetVringFd:
        queue, has_fd = VringFd.parse(message)
        self._vring(message, queue)
        return SetVringFd(queue, kind, message.fds[0] if has_fd else None)

    def _vring(self, message: Message, queue: int) -> Vring:
        if queue >= QUEUE_COUNT:
            raise SessionError(message.name, f"queue {queue} of {QUEUE_COUNT}")
        return self.vrings[queue]

    @property
    def _is_packed(self) -> bool:
        return Feature.RING_PACKED in self.balloon.negotiated

    @property
    def _may_be_packed(self) -> bool:
        """Packed rings were negotiated, or still can be."""
        return self._is_packed or (
            not self.balloon.negotiated and Feature.RING_PACKED in self.balloon.settings.offered
        )

    def _attach(self, queue: int) -> None:
        """Start a ring, if everything it needs is there. Raises: SessionError."""
        vring = self.vrings[queue]
        if not vring.enabled and self.features & PROTOCOL_FEATURES_BIT:
            return
        ring = make_ring(queue, vring, self.memory, self.balloon.negotiated, self.fence)
        if ring is not None:
            if self.balloon.roles[queue] is QueueRole.INFLATE:
                self.balloon.config.recognise_driver(goes_on=ring.base not in FRESH_BASES)
            self.balloon.attach(queue, ring)
            self.kicked(queue)

    def _detach(self, queue: int) -> None:
        task = self.tasks.pop(queue, None)
        if task is not None:
            task.close()
        self.log_used_ring(queue)
        base = self.balloon.detach(queue)
        if base is not None:
            self.vrings[queue].base = base

    @contextmanager
    def _paused(self, *queues: int) -> Iterator[None]:
        """Rings stand still inside the block, and run again after it if they can.

        Raises: SessionError, if one cannot; the others run.
        """
        for queue in queues:
            self._detach(queue)
        problem: SessionError | None = None
        try:
            yield
        finally:
            for queue in queues:
                try:
                    self._attach(queue)
                except SessionError as error:
                    problem = error
        if problem is not None:
            raise problem


def _reply(message: Message, payload: bytes) -> Reply:
    return Reply(pack_message(message.code, payload, reply=True))


_R, _S = Request, Session
_HANDLERS: Final[Mapping[int, Callable[[Session, Message], Iterator[Effect]]]] = {
    _R.GET_FEATURES: _S.get_features,
    _R.SET_FEATURES: _S.set_features,
    _R.SET_OWNER: _S.nothing,
    _R.RESET_OWNER: _S.nothing,  # deprecated; front-ends that send it mean different things by it
    _R.SET_MEM_TABLE: _S.set_mem_table,
    _R.SET_LOG_BASE: _S.set_log_base,
    _R.SET_LOG_FD: _S.nothing,
    _R.SET_VRING_NUM: _S.set_vring_num,
    _R.SET_VRING_ADDR: _S.set_vring_addr,
    _R.SET_VRING_BASE: _S.set_vring_base,
    _R.GET_VRING_BASE: _S.get_vring_base,
    _R.SET_VRING_KICK: _S.set_vring_kick,
    _R.SET_VRING_CALL: _S.set_vring_call,
    _R.SET_VRING_ERR: _S.set_vring_err,
    _R.GET_PROTOCOL_FEATURES: _S.get_protocol_features,
    _R.SET_PROTOCOL_FEATURES: _S.set_protocol_features,
    _R.GET_QUEUE_NUM: _S.get_queue_num,
    _R.SET_VRING_ENABLE: _S.set_vring_enable,
    _R.SET_BACKEND_REQ_FD: _S.set_backend_req_fd,
    _R.GET_CONFIG: _S.get_config,
    _R.SET_CONFIG: _S.set_config,
    _R.RESET_DEVICE: _S.reset_device,
    _R.GET_MAX_MEM_SLOTS: _S.get_max_mem_slots,
    _R.ADD_MEM_REG: _S.add_mem_reg,
    _R.REM_MEM_REG: _S.rem_mem_reg,
    _R.SET_STATUS: _S.set_status,
    _R.GET_STATUS: _S.get_status,
}
