"""An engine of a migration: a process that works for a machine, and the line between the two.

What the engine says comes as JSON objects, a line each; what it is told is in migration/link.py.
For the thread of the machine's loop.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from ballonet.errors import SystemCallError
from ballonet.migration.link import encode_line
from ballonet.runtime.event_loop import Watcher

__all__ = ["EngineProcess"]

_LINE_MAX: Final = 1 << 20
_SAY_S: Final = 10.0
_END_S: Final = 5.0


class EngineProcess:
    """One engine, from its start to its end."""

    def __init__(
        self,
        module: str,
        heard: Callable[[dict[str, Any]], None],
        lost: Callable[[], None],
        inherited: Sequence[int] = (),
    ) -> None:
        """Start `python -m MODULE FD`; `inherited`: descriptors that it has too, by their numbers.

        `heard` is given each message, `lost` is called when the engine is gone or talks nonsense.
        Raises: SystemCallError.
        """
        self._heard, self._lost = heard, lost
        self._received = b""
        self._watcher: Watcher | None = None
        self.sock, theirs = socket.socketpair()
        with theirs:
            fds = [theirs.fileno(), *inherited]
            command = [sys.executable, "-m", module, str(theirs.fileno())]
            try:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=fds)
            except OSError as error:
                self.sock.close()
                raise SystemCallError("starting", "an engine", error.strerror or "") from error
        self.sock.settimeout(_SAY_S)

    def watch(self, watcher: Watcher) -> None:
        """Hear it on this loop from now on."""
        self._watcher = watcher
        watcher.register(self.sock.fileno(), self.hear)

    def hear(self) -> None:
        """Take what it says, and wait for that if there is nothing yet."""
        try:
            data = self.sock.recv(1 << 16)
        except OSError:
            data = b""
        if not data or len(self._received) > _LINE_MAX:
            self._lost()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._heard(json.loads(line))

    def say(self, message: dict[str, Any], raw: bytes = b"", fd: int | None = None) -> None:
        """Tell it something, with a descriptor; that it is gone is heard, and answered there."""
        line = encode_line(message, raw)
        try:
            if fd is not None:
                line = line[socket.send_fds(self.sock, [line], [fd]) :]
            self.sock.sendall(line)
        except OSError:  # or it does not read: half a line is worse than none
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    def hang_up(self) -> None:
        """Let it know that nobody listens any more; safe to call again."""
        if self.sock.fileno() >= 0:
            if self._watcher is not None:
                self._watcher.unregister(self.sock.fileno())
            self.sock.close()

    def end(self, wait_s: float = _END_S) -> None:
        """Hang up, and end the process if it does not end by itself within so long."""
        self.hang_up()
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
