"""The socket front-ends connect to."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ballonet.errors import ListenError, SettingsError

__all__ = ["adopt_socket", "listening_socket"]

#: sizeof sockaddr_un.sun_path, less the terminating zero.
_PATH_MAX: Final = 107


@contextmanager
def listening_socket(path: Path) -> Iterator[socket.socket]:
    """Listen at `path`, readable by its owner only; a stale socket there is replaced.

    Raises: ListenError.
    """
    if len(os.fsencode(path)) > _PATH_MAX:
        raise ListenError("listening at", str(path), f"a socket path has at most {_PATH_MAX} bytes")
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with sock:
        previous = os.umask(0o177)
        try:
            sock.bind(str(path))
        except OSError as error:
            raise ListenError("listening at", str(path), error.strerror or "") from error
        finally:
            os.umask(previous)
        ours = path.stat().st_ino
        try:
            sock.listen()
            yield sock
        finally:
            if path.exists() and path.stat().st_ino == ours:
                path.unlink()


def adopt_socket(fd: int) -> tuple[socket.socket, bool]:
    """Use a socket that was inherited; True with it if it listens, False if it is connected.

    Raises: SettingsError.
    """
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise SettingsError("--fd", fd, "the number of an open Unix socket")
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise SettingsError("--fd", fd, "the number of an open Unix socket") from error
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise SettingsError("--fd", fd, "the number of an open Unix stream socket")
    return sock, bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _remove_stale(path: Path) -> None:
    """Remove a socket nobody listens at. Raises: ListenError, if somebody does."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError("listening at", str(path), error.strerror or "") from error
    if not stat.S_ISSOCK(mode):
        raise ListenError("listening at", str(path), "something that is no socket stands there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        code = probe.connect_ex(str(path))
    if code != errno.ECONNREFUSED:
        raise ListenError("listening at", str(path), "another program listens there")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ListenError("removing the stale", str(path), error.strerror or "") from error
