"""A machine that waits for a guest: memory and states come in, and it goes on here or not at all.

Until the source has given the guest up with GO nothing runs here; whatever goes wrong before, the
source is told in a line, and has the guest still.
Not here: the records (migration), the machine itself (embedded.py).
"""

from __future__ import annotations

import select
import time
from contextlib import suppress
from typing import Final

from ballonet.errors import BallonetError, MigrationError
from ballonet.guests.embedded import EmbeddedMachine
from ballonet.guests.movable_guest import DEVICE
from ballonet.guests.postcopy_arrival import PostcopyArrival
from ballonet.memory.regions import Region
from ballonet.migration.channels import Channel
from ballonet.migration.framing import RecordReader, RecordWriter
from ballonet.migration.incoming import Incoming
from ballonet.migration.memory_file import MemoryFile
from ballonet.migration.receiver import receive_record, receive_until_runnable
from ballonet.migration.records import (
    FORWARD,
    Begin,
    Failed,
    Go,
    GuestRegion,
    Loaded,
    Ready,
    Record,
    StateName,
)
from ballonet.migration.rendezvous import Listener
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["MigrationDestination"]

_STATES: Final = frozenset(StateName)
#: For a source that sends a piece of memory before it looks whether it is still heard.
_DRAIN_S: Final = 5.0
_DRAIN_BYTES: Final = 4096


class MigrationDestination:
    """One guest that arrives over a channel."""

    def __init__(self, machine: EmbeddedMachine, channel: Channel, listener: Listener) -> None:
        """`listener`: where the source of a guest that goes before its memory may come again."""
        self._machine, self._channel, self._listener = machine, channel, listener
        size = machine.memory.size
        memory = MemoryFile([(Region(0, size, 0, 0), machine.memory.fd)])
        regions = (GuestRegion(0, size, BALLOON_PAGE_BYTES),)
        self._incoming = Incoming(memory, regions, _STATES)
        self._reader = RecordReader(FORWARD)
        self._writer = RecordWriter()
        self.is_paused = False  #: the guest stood still where it came from, as its operator wished
        self.postcopy: PostcopyArrival | None = None  #: if its memory may follow it

    def receive(self) -> None:
        """Take the guest; when this returns it is ours, and can run.

        Raises: BallonetError; the source has it then, and the machine can only be closed.
        """
        try:
            self._load()
        except BallonetError as error:
            with suppress(MigrationError):  # a source that is gone needs no telling
                self._say(Failed(str(error)))
                self._drain()
            raise

    def _load(self) -> None:
        begin = self._take()  # BEGIN: the regions are the same, or this is where it ends
        if isinstance(begin, Begin) and begin.may_postcopy:
            arrival = PostcopyArrival(self._machine, self._channel, self._listener, begin)
            try:
                arrival.receive()
            except BallonetError:
                arrival.close()
                raise
            self.postcopy, self.is_paused = arrival, arrival.is_paused
            return
        self._say(Ready())
        receive_until_runnable(self._channel, self._reader, self._incoming)
        states = {name.name.lower(): bytes(raw) for name, raw in self._incoming.states.items()}
        device = states.pop(DEVICE)
        self._machine.restore_state(states)
        self._machine.take_device(device)
        self._say(Loaded())
        record = self._take()
        if not isinstance(record, Go):
            raise MigrationError("the source says something else than GO")
        self.is_paused = record.is_paused

    def _take(self) -> Record:
        record = receive_record(self._channel, self._reader)
        self._incoming.feed(record)
        return record

    def _drain(self) -> None:
        """Until the source hangs up, or for a while: TCP forgets our last words if we do first."""
        end_s = time.monotonic() + _DRAIN_S
        rest = memoryview(bytearray(_DRAIN_BYTES))
        while select.select([self._channel], [], [], max(0.0, end_s - time.monotonic()))[0]:
            if self._channel.receive(rest) < len(rest):
                return

    def _say(self, record: Record) -> None:
        self._channel.send(self._writer.pack(record))
