"""vhost-user messages as bytes: numbers, framing, replies, and the descriptor for calls.

Part of the test peer, which shares no code with the package under test.  Every wait ends after
`TIMEOUT_S`.  Integers are in host byte order.  Source: QEMU docs/interop/vhost-user.rst.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from typing import Final

from tests.support.wait import PATIENCE_S

TIMEOUT_S: Final = PATIENCE_S

HEADER: Final = struct.Struct("=III")
U64: Final = struct.Struct("=Q")

VERSION: Final = 1
REPLY: Final = 4
NEED_REPLY: Final = 8


class Req(IntEnum):
    """Front-end to back-end."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


CONFIG_CHANGE: Final = 2  #: back-end to front-end

PROTOCOL_MQ: Final = 1 << 0
PROTOCOL_LOG_SHMFD: Final = 1 << 1
PROTOCOL_REPLY_ACK: Final = 1 << 3
PROTOCOL_BACKEND_REQ: Final = 1 << 5
PROTOCOL_CONFIG: Final = 1 << 9
PROTOCOL_RESET_DEVICE: Final = 1 << 13
PROTOCOL_MEM_SLOTS: Final = 1 << 15
PROTOCOL_STATUS: Final = 1 << 16
PROTOCOL_DEVICE_STATE: Final = 1 << 19


class RefusedError(Exception):
    """The back-end acknowledged with something other than 0."""

    def __init__(self, request: Req, result: int) -> None:
        super().__init__(f"{request.name} was refused with {result}")
        self.request, self.result = request, result


class ClosedError(Exception):
    """The back-end ended the connection."""


class Call:
    """How the back-end tells of used chains: an eventfd, or one end of a socket pair as in UML."""

    def __init__(self, *, is_socket: bool) -> None:
        self._is_socket = is_socket
        if is_socket:
            ours, theirs = socket.socketpair()
            self._ours, self._theirs = ours.detach(), theirs.detach()
        else:
            self._ours = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._theirs = self._ours

    @property
    def back_end_fd(self) -> int:
        """What to send; ours is kept open as well."""
        return self._theirs

    def wait(self, timeout_s: float) -> bool:
        """True if a call came in time; calls that came together count once.

        Raises: AssertionError, if something other than whole 8-byte calls arrived.
        """
        if not is_readable(self._ours, timeout_s):
            return False
        raw = os.read(self._ours, 4096 if self._is_socket else 8)
        if not raw or len(raw) % 8:
            raise AssertionError(f"a call of {len(raw)} bytes")
        return True

    def stop_up(self) -> None:
        """Let the next call wait for ever, as far as we can."""
        stop_up(self._theirs, is_socket=self._is_socket)

    def close(self) -> None:
        """Close both ends."""
        for fd in {self._ours, self._theirs}:
            os.close(fd)


class Wire:
    """Messages over one connection, and who waits for which answer."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT_S)
        self._sock: Final = sock
        self.has_reply_ack = False  #: negotiated
        self.asks_acks = False  #: of every message that has no reply of its own
        self.asks_acks_of_queries = False  #: sets the flag on the others too, as rust-vmm does

    def close(self) -> None:
        """Hang up; safe to call again."""
        self._sock.close()

    def shut_down(self) -> None:
        """Say that no more will come, and listen on."""
        self._sock.shutdown(socket.SHUT_WR)

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes as they are."""
        if not fds:
            self._sock.sendall(data)
            return
        sent = socket.send_fds(self._sock, [data], list(fds))
        self._sock.sendall(data[sent:])

    def send(
        self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *, need_reply: bool
    ) -> None:
        """Send one message and wait for nothing."""
        flags = VERSION | (NEED_REPLY if need_reply else 0)
        self.send_raw(HEADER.pack(request, flags, len(payload)) + payload, fds)

    def receive(self, request: Req) -> bytes:
        """The reply to a request. Raises: ClosedError, TimeoutError, AssertionError."""
        code, flags, size = HEADER.unpack(self.receive_raw(HEADER.size))
        payload = self.receive_raw(size)
        if code != request or flags != VERSION | REPLY:
            raise AssertionError(f"reply {code} with flags {flags:#x} to {request.name}")
        return payload

    def ack(self, request: Req) -> int:
        """The acknowledgement of a message sent with need_reply: 0 for done."""
        return int(U64.unpack(self.receive(request))[0])

    def tell(
        self, request: Req, payload: bytes = b"", fds: Sequence[int] = (), *, ack: bool = False
    ) -> None:
        """Send a message that has no reply of its own.

        Waits for an acknowledgement if `ack` or `asks_acks` is set and it was negotiated.
        Raises: RefusedError.
        """
        need_reply = self.has_reply_ack and (ack or self.asks_acks)
        self.send(request, payload, fds, need_reply=need_reply)
        if need_reply:
            result = self.ack(request)
            if result:
                raise RefusedError(request, result)

    def ask(self, request: Req, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a message that has a reply, and return its payload."""
        need_reply = self.has_reply_ack and self.asks_acks_of_queries
        self.send(request, payload, fds, need_reply=need_reply)
        return self.receive(request)

    def is_closed(self, timeout_s: float) -> bool:
        """True if the back-end hung up in time without sending anything more."""
        if not is_readable(self._sock.fileno(), timeout_s):
            return False
        try:
            return self._sock.recv(1, socket.MSG_PEEK) == b""
        except ConnectionResetError:
            return True

    def receive_raw(self, size: int) -> bytes:
        """Exactly so many bytes. Raises: ClosedError, TimeoutError."""
        data = b""
        while len(data) < size:
            try:
                more = self._sock.recv(size - len(data))
            except ConnectionResetError as error:
                raise ClosedError("the back-end reset the connection") from error
            if not more:
                raise ClosedError(f"the back-end hung up after {len(data)} of {size} bytes")
            data += more
        return data


def stop_up(fd: int, *, is_socket: bool) -> None:
    """Fill a descriptor that the back-end shares, and make it blocking, for both."""
    os.set_blocking(fd, False)
    if is_socket:
        with suppress(BlockingIOError):
            while os.write(fd, bytes(4096)):
                pass
        with suppress(BlockingIOError):
            while os.write(fd, bytes(1)):
                pass
    else:
        with suppress(BlockingIOError):
            os.eventfd_read(fd)
        os.eventfd_write(fd, (1 << 64) - 2)
    os.set_blocking(fd, True)


def is_readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
