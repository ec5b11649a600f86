"""A trace file in the Chrome trace event format, which Perfetto and chrome://tracing open.

    [                                                   one event a line, so that a file cut short
    {"name": ..., "ph": "i", "ts": 12.3, "tid": 4, ...},   by a crash can still be read; viewers do
    {"name": ..., "ph": "X", "ts": 12.4, "dur": 1.2, ...}, not mind the missing end

Units: microseconds from the start of the trace.
Source: "Trace Event Format" (Chromium), JSON Array Format.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ballonet.errors import SystemCallError
from ballonet.trace.tracks import Track

__all__ = ["TraceWriter"]

_FLUSH_NS: Final = 500_000_000
_BUFFER_MAX: Final = 4096
_log = logging.getLogger(__name__)


class TraceWriter:
    """Takes events on one thread; `close` it. Raises: SystemCallError, if it cannot be written.

    Once it is made nothing is raised any more: a record that cannot go on ends with a warning.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        try:
            # A pipe whose reader is slow ends the record: it must not make the device wait.
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)
            self._file = os.fdopen(fd, "w", encoding="utf-8")
        except OSError as error:
            raise SystemCallError("writing", str(path), error.strerror or "") from error
        self._has_ended = False
        self._left = limit_bytes
        self._start_ns = time.monotonic_ns()
        self._buffer: list[str] = ["["]
        self.deadline_ns: int | None = None  #: when `expired` wants to be called
        for track in Track:
            self._put(
                {
                    "name": "thread_name",
                    "ph": "M",
                    "pid": 1,
                    "tid": track.value,
                    "args": {"name": track.name.lower()},
                }
            )
        self.flush()  # so that the file is a trace from the start

    def attempt(self, record: Callable[[], None]) -> None:
        """Run what only records; whatever goes wrong in it ends the record and nothing else."""
        if self._has_ended:
            return
        try:
            record()
        except Exception as error:  # the device must not notice that it is observed
            self._end(f"{type(error).__name__}: {error}")

    def instant(self, track: Track, name: str, **details: object) -> None:
        """Something that happens now."""
        self._put(self._event(track, name, time.monotonic_ns(), details) | {"ph": "i", "s": "t"})

    def span(self, track: Track, name: str, began_ns: int, **details: object) -> None:
        """Something that began then and ends now."""
        now_ns = time.monotonic_ns()
        event = self._event(track, name, began_ns, details)
        self._put(event | {"ph": "X", "dur": (now_ns - began_ns) / 1000})

    def flush(self) -> None:
        """Write what has come together."""
        lines, self._buffer, self.deadline_ns = self._buffer, [], None
        if not lines or self._has_ended:
            return
        text = "\n".join(lines) + "\n"
        self._left -= len(text)
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            self._end(error.strerror or str(error))
            return
        if self._left <= 0:
            self._end("it has reached its limit")

    def expired(self) -> None:
        """What has come together has waited long enough."""
        self.flush()

    def close(self) -> None:
        """Write the rest."""
        self.flush()
        with suppress(OSError):  # what could not be written before is tried again, and told already
            self._file.close()

    def _end(self, why: str) -> None:
        """Record nothing from now on."""
        self._has_ended, self._buffer, self.deadline_ns = True, [], None
        _log.warning("the trace ends here: %s", why)

    def _event(
        self, track: Track, name: str, at_ns: int, details: dict[str, object]
    ) -> dict[str, object]:
        stamp = (at_ns - self._start_ns) / 1000
        return {"name": name, "pid": 1, "tid": track.value, "ts": stamp, "args": details}

    def _put(self, event: dict[str, object]) -> None:
        if self._has_ended:
            return
        self._buffer.append(json.dumps(event) + ",")
        if len(self._buffer) >= _BUFFER_MAX:
            self.flush()
        elif self.deadline_ns is None:
            self.deadline_ns = time.monotonic_ns() + _FLUSH_NS
