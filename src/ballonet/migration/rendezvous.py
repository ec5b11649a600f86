"""How the two ends of a migration find each other: a channel to, or from, a URI."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, assert_never

from ballonet.errors import ListenError, MigrationError, SettingsError, SystemCallError
from ballonet.migration.channel_uri import FdUri, FileUri, TcpUri, UnixUri, parse_uri
from ballonet.migration.channels import TIMEOUT_S, Channel, FileChannel, SocketChannel
from ballonet.vhost_user.listener import listening_socket

__all__ = ["Listener", "connect", "listen"]

_NO_SOCKET: Final = "the number of an open stream socket"


def connect(uri: str, timeout_s: int = TIMEOUT_S) -> Channel:
    """A channel to whoever listens there, or into a file.

    Raises: SettingsError for what is no URI; SystemCallError, if there is no way there.
    """
    where = parse_uri(uri)
    match where:
        case FileUri():
            return FileChannel(where.path)
        case FdUri():
            sock = _adopt(where.fd)
            if not _is_connected(sock):
                sock.detach()
                raise SettingsError("uri", uri, "a socket that is connected")
        case UnixUri() | TcpUri():
            sock = _connected(uri, where, timeout_s)
        case _:
            assert_never(where)
    return SocketChannel(sock, uri, timeout_s)


class Listener:
    """Where a source may come from."""

    def __init__(self, sock: socket.socket, uri: str, timeout_s: int) -> None:
        self._sock, self._timeout_s = sock, timeout_s
        self.uri: Final = uri  #: for the source; with the port that was free, if any was asked for

    def fileno(self) -> int:
        """Readable when a source has come."""
        return self._sock.fileno()

    @property
    def accepts_more(self) -> bool:
        """Another source may come after the first; not so over a connection that was inherited."""
        return _listens(self._sock)

    def accept(self) -> SocketChannel:
        """Wait for a source, for as long as it takes. Raises: MigrationError."""
        if not _listens(self._sock):
            return SocketChannel(self._sock.dup(), self.uri, self._timeout_s)
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            raise MigrationError(f"waiting at {self.uri}: {error.strerror or error}") from error
        return SocketChannel(sock, self.uri, self._timeout_s)


@contextmanager
def listen(uri: str, timeout_s: int = TIMEOUT_S) -> Iterator[Listener]:
    """Listen for the block; a Unix socket is readable by its owner only, and replaces a stale one.

    Raises: SettingsError for what is no URI, or a file; ListenError.
    """
    where = parse_uri(uri)
    match where:
        case FileUri():
            raise SettingsError("uri", uri, "a socket: a file is only written")
        case UnixUri():
            with listening_socket(Path(where.path)) as sock:
                yield Listener(sock, uri, timeout_s)
        case FdUri():
            sock = _adopt(where.fd)
            if not _listens(sock) and not _is_connected(sock):
                sock.detach()
                raise SettingsError("uri", uri, "a socket that listens or is connected")
            with sock:
                sock.settimeout(None)
                yield Listener(sock, uri, timeout_s)
        case TcpUri():
            with _listening_at(uri, where) as sock:
                host = f"[{where.host}]" if ":" in where.host else where.host
                yield Listener(sock, f"tcp:{host}:{sock.getsockname()[1]}", timeout_s)
        case _:
            assert_never(where)


def _connected(uri: str, where: UnixUri | TcpUri, timeout_s: int) -> socket.socket:
    """Raises: SystemCallError."""
    try:
        if isinstance(where, TcpUri):
            return socket.create_connection((where.host, where.port), timeout_s)
        return _connected_to_path(where.path, timeout_s)
    except (OSError, UnicodeError) as error:  # the latter for a host's name
        raise SystemCallError("connecting to", uri, _reason(error)) from error


def _connected_to_path(path: str, timeout_s: int) -> socket.socket:
    """Raises: OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _listening_at(uri: str, where: TcpUri) -> socket.socket:
    """Raises: ListenError."""
    try:
        found = socket.getaddrinfo(
            where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:  # the latter for a host's name
        raise ListenError("listening at", uri, _reason(error)) from error


def _adopt(fd: int) -> socket.socket:
    """A stream socket that was inherited; it is ours from now on. Raises: SettingsError."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise SettingsError("uri", f"fd:{fd}", _NO_SOCKET)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise SettingsError("uri", f"fd:{fd}", _NO_SOCKET) from error
    if sock.type != socket.SOCK_STREAM:
        sock.detach()  # it stays whoever's it is
        raise SettingsError("uri", f"fd:{fd}", _NO_SOCKET)
    return sock


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _reason(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error)
