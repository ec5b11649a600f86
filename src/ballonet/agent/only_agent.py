"""One agent of a user on a host at a time, by a lock on a file that says which process it is.

Source: flock(2): the lock ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ballonet.errors import SettingsError, SystemCallError
from ballonet.host.directory import check_private

__all__ = ["CONTROL_NAME", "OnlyAgent"]

#: Of the agent's monitor, in its directory.
CONTROL_NAME: Final = "agent.qmp"

_NAME: Final = "agent.pid"
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NUMBER_BYTES: Final = 32


class OnlyAgent:
    """A context manager; inside, no other agent can be in the same directory."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._path = directory, directory / _NAME
        self._fd = -1

    def __enter__(self) -> Self:
        """Raises: SettingsError, SystemCallError."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_private(self._directory, self._directory.lstat())
            self._fd = self._locked()
        except OSError as error:
            reason = f"one that can be made and used: {error.strerror}"
            raise SettingsError("--directory", str(self._directory), reason) from error
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)  # first: who waits for the lock looks again
        os.close(self._fd)

    def _locked(self) -> int:
        """The file, locked, and still the one of that name. Raises: OSError, SystemCallError."""
        while True:
            fd = os.open(self._path, _FLAGS, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.read(fd, _NUMBER_BYTES).decode(errors="replace").strip()
                os.close(fd)
                who = f"process {pid}" if pid.isdecimal() else "another process"
                reason = f"{who} is the agent of this host, and has locked {self._path}"
                raise SystemCallError("starting", "the agent", reason) from None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), self._path.lstat()):
                    return fd
            os.close(fd)  # an agent that has just ended has removed it
