"""Events of a monitor as they arrive, each with the time by our clock, on a thread of its own.

A socket of its own, too: whoever waits for the answer to a command would note events late.
Source: QEMU docs/interop/qmp-spec.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Final, Self

from ballonet.errors import MonitorError

__all__ = ["WALL_ERROR_NS", "HeardEvent", "MonitorEvents", "wall_ahead_ns"]

#: Times of day that others tell have microseconds, and come to our clock by `wall_ahead_ns`.
WALL_ERROR_NS: Final = 10_000
_CONNECT_S: Final = 60.0
_READINGS: Final = 100


@dataclass(frozen=True, slots=True)
class HeardEvent:
    """One event; `heard_ns` by our monotonic clock, `stamp_ns` as the sender says, since 1970."""

    name: str
    heard_ns: int
    stamp_ns: int
    data: dict[str, Any] = field(default_factory=dict)


class MonitorEvents:
    """Listens inside the block; `heard` grows as events arrive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.heard: list[HeardEvent] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._thread = Thread(target=self._listen, name="monitor-events", daemon=True)

    def __enter__(self) -> Self:
        """Connect. Raises: MonitorError."""
        try:
            self._socket.settimeout(_CONNECT_S)
            self._socket.connect(str(self._path))
            self._lines = self._socket.makefile("rb")
            self._lines.readline()  # its greeting
            self._socket.sendall(b'{"execute": "qmp_capabilities"}\n')
            while "return" not in json.loads(self._lines.readline()):
                pass  # an event may come first
        except (OSError, ValueError) as error:
            self._socket.close()
            raise MonitorError(f"no monitor answers at {self._path}: {error}") from error
        self._socket.settimeout(None)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # the other end may be gone
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._lines.close()
        self._socket.close()

    def named(self, name: str) -> list[HeardEvent]:
        """Those of one kind, in the order they came."""
        return [event for event in list(self.heard) if event.name == name]

    def _listen(self) -> None:
        with suppress(OSError, ValueError):  # it was hung up, in the middle of a line perhaps
            for line in self._lines:
                heard_ns = time.monotonic_ns()
                message = json.loads(line)
                if "event" in message:
                    self.heard.append(_event(message, heard_ns))


def wall_ahead_ns() -> int:
    """How far the time of day is ahead of our monotonic clock.

    Read between two readings of the other, the closest of many: on a busy machine others run
    between any two.
    """
    best = (1 << 63, 0)
    for _ in range(_READINGS):
        before_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        after_ns = time.monotonic_ns()
        best = min(best, (after_ns - before_ns, wall_ns - (before_ns + after_ns) // 2))
    return best[1]


def _event(message: dict[str, Any], heard_ns: int) -> HeardEvent:
    stamp = message["timestamp"]
    stamp_ns = (stamp["seconds"] * 1_000_000 + stamp["microseconds"]) * 1_000
    return HeardEvent(message["event"], heard_ns, stamp_ns, message.get("data", {}))
