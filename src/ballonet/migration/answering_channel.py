"""One channel at its destination: records come in, answers go out, those from any thread."""

from __future__ import annotations

import select
import time
from contextlib import suppress
from threading import Lock
from typing import Final

from ballonet.errors import MigrationError
from ballonet.migration.channels import Channel
from ballonet.migration.framing import RecordReader, RecordWriter
from ballonet.migration.receiver import receive_record
from ballonet.migration.records import Failed, Record

__all__ = ["AnsweringChannel"]

#: For a source that sends a piece of memory before it looks whether it is still heard.
_DRAIN_S: Final = 5.0
_DRAIN_BYTES: Final = 4096


class AnsweringChannel:
    """Owns its channel; `receive` and `give_up` belong to one thread."""

    def __init__(self, channel: Channel, reader: RecordReader) -> None:
        self._channel, self._reader = channel, reader
        self._writer = RecordWriter()
        self._lock = Lock()  # over whole records, and over the channel's end

    def fileno(self) -> int:
        """To wait for."""
        return self._channel.fileno()

    def receive(self) -> Record:
        """Wait for the next record. Raises: StreamError, MigrationError."""
        return receive_record(self._channel, self._reader)

    def say(self, record: Record) -> None:
        """Answer. Raises: MigrationError."""
        with self._lock:
            self._channel.send(self._writer.pack(record))

    def give_up(self, reason: str) -> None:
        """Say why nothing more is taken, and hang up."""
        with suppress(MigrationError):  # a source that is gone needs no telling
            self.say(Failed(reason))
            self._drain()
        self.close()

    def close(self) -> None:
        """Hang up, whoever is about to answer; safe to call again."""
        self._channel.abort()
        with self._lock:
            self._channel.close()

    def leave(self) -> None:
        """Let another process have it."""
        self._channel.close()

    def _drain(self) -> None:
        """Until the source hangs up, or for a while: TCP forgets our last words if we do first."""
        end_s = time.monotonic() + _DRAIN_S
        rest = memoryview(bytearray(_DRAIN_BYTES))
        while select.select([self._channel], [], [], max(0.0, end_s - time.monotonic()))[0]:
            if self._channel.receive(rest) < len(rest):
                return
