"""The wires of a migration: bytes in order, both ways over a socket, one way into a file.

A peer that makes no progress for a while is given up.  Sockets wait in the kernel (SO_RCVTIMEO,
SO_SNDTIMEO) and not in Python: MSG_WAITALL then fills a whole buffer in one call.
Not here: what the bytes mean.  Source: socket(7), unix(7), tcp(7), recv(2), send(2).
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from ballonet.errors import MigrationError, SystemCallError

__all__ = ["TIMEOUT_S", "Buffer", "Channel", "FileChannel", "SocketChannel"]

Buffer = bytes | memoryview

#: Without any progress; a busy host may be slow, but not so slow.
TIMEOUT_S: Final = 60
_TIMEVAL: Final = struct.Struct("@ll")
_VECTOR_MAX: Final = 1024  # UIO_MAXIOV


class Channel(Protocol):
    """One end of a wire; a context manager."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def is_two_way(self) -> bool:
        """There can be answers."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None: ...

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of them, in order. Raises: MigrationError."""

    def receive(self, buffer: memoryview) -> int:
        """Fill a buffer; fewer bytes only at the end of the stream. Raises: MigrationError."""

    def finish(self) -> None:
        """What was sent has to last. Raises: MigrationError."""

    def abort(self) -> None:
        """Let whoever waits here, on any thread, fail; for good."""

    def close(self) -> None:
        """Hang up; safe to call again."""

    def fileno(self) -> int:
        """To wait for."""


class SocketChannel:
    """A connected stream socket; owns it. A context manager."""

    is_two_way: Final = True

    def __init__(self, sock: socket.socket, name: str, timeout_s: int = TIMEOUT_S) -> None:
        self.name: Final = name
        self._sock, self._timeout_s = sock, timeout_s
        sock.settimeout(None)
        timeout = _TIMEVAL.pack(timeout_s, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        # Buffers stay as they are: the kernel sizes TCP's by itself, larger than we may ask for,
        # and for a Unix socket 100 KiB and 1 MiB took the same processor time.
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """To wait for."""
        return self._sock.fileno()

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of them, in order.

        Raises: MigrationError, if the other end is gone or takes nothing; a part was sent then.
        """
        left = list(buffers)
        while left:
            try:
                sent = self._sock.sendmsg(left[:_VECTOR_MAX], (), socket.MSG_NOSIGNAL)
            except OSError as error:
                raise self._failed("sending to", error) from error
            left = _after(left, sent)

    def receive(self, buffer: memoryview) -> int:
        """Fill a buffer; fewer bytes only at the end of the stream.

        Raises: MigrationError, if the connection breaks, or nothing comes.
        """
        filled = 0
        while filled < len(buffer):
            try:
                got = self._sock.recv_into(buffer[filled:], 0, socket.MSG_WAITALL)
            except OSError as error:
                raise self._failed("receiving from", error) from error
            if not got:
                break
            filled += got
        return filled

    def finish(self) -> None:
        """Nothing: the other end says what has arrived."""

    def abort(self) -> None:
        """Let whoever waits here, on any thread, fail; for good."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is gone already

    def close(self) -> None:
        """Hang up; safe to call again."""
        self._sock.close()

    def _failed(self, operation: str, error: OSError) -> MigrationError:
        if isinstance(error, BlockingIOError):
            return MigrationError(f"{operation} {self.name}: no progress for {self._timeout_s} s")
        return MigrationError(f"{operation} {self.name}: {error.strerror or error}")


class FileChannel:
    """A file that is written; a context manager. What stood there before is gone."""

    is_two_way: Final = False

    def __init__(self, path: str) -> None:
        """Raises: SystemCallError, if it cannot be written or is no regular file."""
        self.name: Final = f"file:{path}"
        self._fd = _open_file(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """To wait for."""
        return self._fd

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Write all of them, in order. Raises: MigrationError; a part was written then."""
        left = list(buffers)
        while left:
            try:
                left = _after(left, os.writev(self._fd, left[:_VECTOR_MAX]))
            except OSError as error:
                raise self._failed(error) from error

    def receive(self, buffer: memoryview) -> int:  # noqa: ARG002 - none is ever filled
        """Raises: MigrationError; nobody answers from a file."""
        raise MigrationError(f"{self.name}: it is only written")

    def finish(self) -> None:
        """Wait until the disk has it. Raises: MigrationError."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed(error) from error

    def abort(self) -> None:
        """Nothing: a write does not wait."""

    def close(self) -> None:
        """Safe to call again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _failed(self, error: OSError) -> MigrationError:
        return MigrationError(f"writing {self.name}: {error.strerror or error}")


def _open_file(path: str) -> int:
    """An empty file. Raises: SystemCallError."""
    # Guest memory is nobody else's business.  A FIFO would wait for its reader.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
        try:
            _check_regular(fd, path)
            os.ftruncate(fd, 0)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise SystemCallError("writing", path, error.strerror or str(error)) from error
    return fd


def _check_regular(fd: int, path: str) -> None:
    """Raises: SystemCallError."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise SystemCallError("writing", path, "it is not a regular file")


def _after(buffers: Iterable[Buffer], done: int) -> list[Buffer]:
    """What is left of some buffers behind the first bytes of them."""
    left: list[Buffer] = []
    for buffer in buffers:
        if done >= len(buffer):
            done -= len(buffer)
        else:
            left.append(memoryview(buffer)[done:] if done else buffer)
            done = 0
    return left
