"""Records out of a channel: one at a time, or a whole migration."""

from __future__ import annotations

from ballonet.migration.channels import Channel
from ballonet.migration.framing import RecordReader
from ballonet.migration.incoming import Incoming
from ballonet.migration.records import Record

__all__ = ["receive_record", "receive_until_runnable"]


def receive_record(channel: Channel, reader: RecordReader) -> Record:
    """Wait for the next record.

    Raises: StreamError, also where the stream ends; MigrationError.
    """
    while True:
        buffer = reader.buffer
        if channel.receive(buffer) < len(buffer):
            reader.cut()
        record = reader.filled()
        if record is not None:
            return record


def receive_until_runnable(channel: Channel, reader: RecordReader, incoming: Incoming) -> None:
    """Take records until the guest may run; in post-copy there are more to come.

    Raises: StreamError, MigrationError; what the memory raises; nothing is runnable then.
    """
    while not incoming.may_run:
        incoming.feed(receive_record(channel, reader))
