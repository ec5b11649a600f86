"""A vhost-user front-end that does what it is told, right or wrong.

Part of the test peer, which shares no code with the package under test.  Every wait ends after
`TIMEOUT_S`.  Integers are in host byte order.  Source: QEMU docs/interop/vhost-user.rst.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.support.wire import (
    HEADER,
    NEED_REPLY,
    PROTOCOL_REPLY_ACK,
    REPLY,
    TIMEOUT_S,
    U64,
    VERSION,
    Call,
    Req,
    Wire,
    is_readable,
    stop_up,
)

LOG_NOWHERE: Final = (1 << 64) - 1

_STATE: Final = struct.Struct("=II")
_ADDR: Final = struct.Struct("=IIQQQQ")
_REGION: Final = struct.Struct("=QQQQ")
_CONFIG: Final = struct.Struct("=III")
_LOG: Final = struct.Struct("=QQ")


class TableRegion(NamedTuple):
    """A memory region as it goes over the wire; nothing checks it."""

    gpa: int
    size: int
    uva: int
    file_offset: int


class BackendMessage(NamedTuple):
    """What the back-end sent of its own accord."""

    request: int
    flags: int
    payload: bytes


class FrontEnd:
    """One connection to a back-end; a context manager."""

    def __init__(self, sock: socket.socket) -> None:
        self.wire: Final = Wire(sock)
        self._kicks: dict[int, int] = {}
        self._calls: dict[int, Call] = {}
        self._errs: dict[int, int] = {}
        self._channel: socket.socket | None = None

    @classmethod
    def connect(cls, path: Path) -> Self:
        """Connect to a listening back-end."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT_S)
        try:
            sock.connect(str(path))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up and close every descriptor; safe to call again."""
        self.wire.close()
        for fd in (*self._kicks.values(), *self._errs.values()):
            os.close(fd)
        for call in self._calls.values():
            call.close()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._kicks, self._errs, self._calls = {}, {}, {}

    def get_features(self) -> int:
        """What is offered."""
        return self._ask_u64(Req.GET_FEATURES)

    def set_features(self, features: int) -> None:
        """What is accepted."""
        self.wire.tell(Req.SET_FEATURES, U64.pack(features))

    def get_protocol_features(self) -> int:
        """vhost-user's own bits, offered."""
        return self._ask_u64(Req.GET_PROTOCOL_FEATURES)

    def set_protocol_features(self, features: int) -> None:
        """vhost-user's own bits, accepted; REPLY_ACK counts from this very message on."""
        self.wire.has_reply_ack = bool(features & PROTOCOL_REPLY_ACK)
        self.wire.tell(Req.SET_PROTOCOL_FEATURES, U64.pack(features))

    def set_owner(self) -> None:
        """Begin a session."""
        self.wire.tell(Req.SET_OWNER)

    def get_queue_num(self) -> int:
        """How many queues the back-end has."""
        return self._ask_u64(Req.GET_QUEUE_NUM)

    def set_mem_table(
        self,
        regions: Sequence[TableRegion],
        fds: Sequence[int],
        *,
        room: int = 0,
        ack: bool = False,
    ) -> None:
        """Send the whole table; with `room`, space for that many regions at least."""
        raw = b"".join(_REGION.pack(*region) for region in regions)
        payload = _STATE.pack(len(regions), 0) + raw.ljust(room * _REGION.size, b"\0")
        self.wire.tell(Req.SET_MEM_TABLE, payload, fds, ack=ack)

    def get_max_mem_slots(self) -> int:
        """How many regions may be added."""
        return self._ask_u64(Req.GET_MAX_MEM_SLOTS)

    def add_mem_reg(self, region: TableRegion, fds: Sequence[int]) -> None:
        """Add one region."""
        self.wire.tell(Req.ADD_MEM_REG, U64.pack(0) + _REGION.pack(*region), fds, ack=True)

    def rem_mem_reg(self, region: TableRegion, fds: Sequence[int] = ()) -> None:
        """Remove one region."""
        self.wire.tell(Req.REM_MEM_REG, U64.pack(0) + _REGION.pack(*region), fds, ack=True)

    def set_log_base(self, size: int, offset: int, fd: int) -> None:
        """Hand over the dirty log."""
        self.wire.ask(Req.SET_LOG_BASE, _LOG.pack(size, offset), [fd])

    def set_vring_num(self, queue: int, num: int) -> None:
        """How many entries a ring has."""
        self.wire.tell(Req.SET_VRING_NUM, _STATE.pack(queue, num))

    def set_vring_addr(
        self, queue: int, addresses: tuple[int, int, int], *, flags: int = 0, log: int = LOG_NOWHERE
    ) -> None:
        """Where a ring lies: user addresses of descriptors, available ring, used ring."""
        desc, avail, used = addresses
        self.wire.tell(Req.SET_VRING_ADDR, _ADDR.pack(queue, flags, desc, used, avail, log))

    def set_vring_base(self, queue: int, base: int) -> None:
        """Where in the ring to begin."""
        self.wire.tell(Req.SET_VRING_BASE, _STATE.pack(queue, base))

    def get_vring_base(self, queue: int) -> int:
        """Stop a ring; returns where to go on."""
        answered, base = _STATE.unpack(self.wire.ask(Req.GET_VRING_BASE, _STATE.pack(queue, 0)))
        if answered != queue:
            raise AssertionError(f"asked for the base of {queue}, told of {answered}")
        return int(base)

    def set_vring_enable(self, queue: int, enable: int, *, ack: bool = False) -> None:
        """Let a ring run, or pause it."""
        self.wire.tell(Req.SET_VRING_ENABLE, _STATE.pack(queue, enable), ack=ack)

    def set_vring_kick(self, queue: int) -> None:
        """A fresh eventfd for kicks."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        old, self._kicks[queue] = self._kicks.get(queue), fd
        if old is not None:
            os.close(old)
        self.wire.tell(Req.SET_VRING_KICK, U64.pack(queue), [fd])

    def set_vring_call(self, queue: int, *, is_socket: bool = False) -> None:
        """A fresh descriptor for calls."""
        call = Call(is_socket=is_socket)
        old, self._calls[queue] = self._calls.get(queue), call
        if old is not None:
            old.close()
        self.wire.tell(Req.SET_VRING_CALL, U64.pack(queue), [call.back_end_fd])

    def set_vring_err(self, queue: int) -> None:
        """A fresh eventfd for errors."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        old, self._errs[queue] = self._errs.get(queue), fd
        if old is not None:
            os.close(old)
        self.wire.tell(Req.SET_VRING_ERR, U64.pack(queue), [fd])

    def kick(self, queue: int) -> None:
        """Tell the device of new chains."""
        os.eventfd_write(self._kicks[queue], 1)

    def wait_call(self, queue: int, timeout_s: float = TIMEOUT_S) -> bool:
        """True if the device told of used chains in time."""
        return self._calls[queue].wait(timeout_s)

    def stop_up(self, queue: int) -> None:
        """Let whoever calls us, or tells of an error, wait for ever."""
        self._calls[queue].stop_up()
        if queue in self._errs:
            stop_up(self._errs[queue], is_socket=False)

    def steal_kick(self, queue: int) -> None:
        """Kick, and take the kick away before the device reads it, so that a read would wait."""
        fd = self._kicks[queue]
        os.set_blocking(fd, True)
        os.eventfd_write(fd, 1)
        os.eventfd_read(fd)

    def wait_err(self, queue: int, timeout_s: float = TIMEOUT_S) -> bool:
        """True if the device told in time that the ring is broken."""
        if not is_readable(self._errs[queue], timeout_s):
            return False
        os.eventfd_read(self._errs[queue])
        return True

    def set_backend_req_fd(self) -> None:
        """Hand over one end of a socket pair."""
        ours, theirs = socket.socketpair()
        with theirs:
            if self._channel is not None:
                self._channel.close()
            self._channel = ours
            self.wire.tell(Req.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])

    def read_backend_message(self, timeout_s: float = TIMEOUT_S) -> BackendMessage | None:
        """The next message of the back-end, None if there is none in time.

        Header and payload are each read at once: UML loses its place if a header comes in pieces.
        """
        if self._channel is None:
            raise AssertionError("the back-end was given no channel")
        if not is_readable(self._channel.fileno(), timeout_s):
            return None
        raw = self._channel.recv(HEADER.size)
        if len(raw) != HEADER.size:
            raise AssertionError(f"{len(raw)} bytes where a header should stand")
        request, flags, size = HEADER.unpack(raw)
        payload = self._channel.recv(size, socket.MSG_DONTWAIT) if size else b""
        if len(payload) != size:
            raise AssertionError(f"{len(payload)} of {size} bytes of payload")
        if flags & NEED_REPLY:
            answer = HEADER.pack(request, VERSION | REPLY, U64.size) + U64.pack(0)
            self._channel.sendall(answer)
        return BackendMessage(request, flags, payload)

    def get_config(self, offset: int, size: int, flags: int = 0) -> bytes:
        """Read configuration space. Raises: AssertionError, if the answer is not of that size."""
        request = _CONFIG.pack(offset, size, flags) + bytes(size)
        reply = self.wire.ask(Req.GET_CONFIG, request)
        if len(reply) != len(request) or _CONFIG.unpack_from(reply)[:2] != (offset, size):
            raise AssertionError(f"{size} bytes at {offset} answered with {reply.hex()}")
        return reply[_CONFIG.size :]

    def set_config(self, offset: int, data: bytes, flags: int = 0) -> None:
        """Write configuration space."""
        self.wire.tell(Req.SET_CONFIG, _CONFIG.pack(offset, len(data), flags) + data)

    def reset_device(self) -> None:
        """Virtio reset."""
        self.wire.tell(Req.RESET_DEVICE)

    def set_status(self, status: int) -> None:
        """The driver's device status."""
        self.wire.tell(Req.SET_STATUS, U64.pack(status))

    def get_status(self) -> int:
        """The device's view of the status."""
        return self._ask_u64(Req.GET_STATUS)

    def set_device_state_fd(self, direction: int, fd: int, *, phase: int = 0) -> int:
        """Let a state be saved (0) to a descriptor, or loaded (1) from it."""
        payload = _STATE.pack(direction, phase)
        return int(U64.unpack(self.wire.ask(Req.SET_DEVICE_STATE_FD, payload, [fd]))[0])

    def check_device_state(self) -> int:
        """Wait for the end of it: 0 for success."""
        return self._ask_u64(Req.CHECK_DEVICE_STATE)

    def _ask_u64(self, request: Req) -> int:
        return int(U64.unpack(self.wire.ask(request))[0])
