"""The directory of a host: ours alone, with one host at a time, and what files of guests are in it.

Whoever can write into it could put sockets and lists of guests of his own there, so it is used only
if no other user can.
Source: flock(2); open(2) O_NOFOLLOW.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ballonet.errors import ListenError, SettingsError, SystemCallError

__all__ = [
    "CONTROL_NAME",
    "HostDirectory",
    "check_private",
    "default_directory",
    "own_directory",
]

CONTROL_NAME: Final = "host.qmp"
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
#: How long the workers of a host that was killed may take to end; they are killed with it.
_LOCK_S: Final = 5.0
_LOOK_S: Final = 0.02
#: NAME.sock, NAME.qmp, NAME.state, and what is left of writing it.
_OF_GUEST: Final = re.compile(r"\.?(?P<name>[A-Za-z0-9].*)\.(sock|qmp|state)(\.[^/]*)?", re.ASCII)


class HostDirectory:
    """A context manager; inside, the directory is made, checked and locked."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.fd = -1  #: open inside the block; whoever inherits it keeps other hosts out

    def __enter__(self) -> Self:
        """Raises: SettingsError, ListenError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise SettingsError(
                "--directory", str(self.path), f"one that can be made and used: {error.strerror}"
            ) from error
        try:
            check_private(self.path, os.fstat(self.fd))
            self._lock()
        except BaseException:
            os.close(self.fd)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        os.close(self.fd)

    def file(self, name: str, suffix: str) -> Path:
        """A guest's file."""
        return self.path / f"{name}.{suffix}"

    def sweep(self, names: Collection[str]) -> None:
        """Remove what guests have left that are none of these. Raises: SystemCallError."""
        for path, name in self._files():
            if name not in names:
                _remove(path)

    def forget(self, name: str) -> None:
        """Remove the state a guest has left. Raises: SystemCallError."""
        for path, owner in self._files():
            if owner == name and not path.is_socket():
                _remove(path)

    def _files(self) -> Iterator[tuple[Path, str]]:
        """Every file of a guest, and the guest's name."""
        for path in list(self.path.iterdir()):
            found = _OF_GUEST.fullmatch(path.name)
            if found and found["name"] != "host" and not path.is_dir():
                yield path, found["name"]

    def _lock(self) -> None:
        end_s = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._is_served() or time.monotonic() > end_s:
                    control = str(self.path / CONTROL_NAME)
                    reason = "another program listens there: a host that uses the same directory"
                    raise ListenError("listening at", control, reason) from None
                time.sleep(_LOOK_S)
            else:
                return

    def _is_served(self) -> bool:
        """Somebody answers at the host's socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(0)
            return probe.connect_ex(str(self.path / CONTROL_NAME)) == 0


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SystemCallError("removing", str(path), error.strerror or str(error)) from error


def default_directory(run_time: str | None, user: int | None) -> Path:
    """Of a host that was given none, with this XDG_RUNTIME_DIR, of this user."""
    return Path(run_time or ("/run" if user == 0 else "/tmp")) / "ballonet"  # noqa: S108 - checked


def own_directory() -> Path:
    """Of this user's host and agent, unless they were given another one.

    Raises: SettingsError, if it is somebody else's: whose host would that be?
    """
    path = default_directory(os.environ.get("XDG_RUNTIME_DIR"), os.geteuid())
    with suppress(FileNotFoundError):
        check_private(path, path.lstat())
    return path


def check_private(path: Path, status: os.stat_result) -> None:
    """Raises: SettingsError, unless the directory is this user's, and nobody else may write it."""
    if status.st_uid != os.geteuid():
        allowed = f"a directory of user {os.geteuid()}; it is user {status.st_uid}'s"
        raise SettingsError("--directory", str(path), allowed)
    if status.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise SettingsError(
            "--directory", str(path), f"one that only its owner may write to; its mode is {mode:o}"
        )
