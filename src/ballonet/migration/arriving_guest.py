"""A guest that arrives, up to where it may run: whole, or with the rest of its memory to follow.

All in the process of `receiving_engine`.  BEGIN was read by the guest's machine, which then handed
the channel over.  Until the guest may run this is like any other destination; what goes wrong is
told to the source, which has the guest.
Units: bytes, balloon pages.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Any, Final

from ballonet.errors import MigrationError
from ballonet.memory.regions import Region
from ballonet.migration.answering_channel import AnsweringChannel
from ballonet.migration.channels import TIMEOUT_S, SocketChannel
from ballonet.migration.framing import RecordReader
from ballonet.migration.incoming import Incoming
from ballonet.migration.link import EngineLink
from ballonet.migration.memory_file import MemoryFile
from ballonet.migration.records import (
    FORWARD,
    Begin,
    Go,
    GuestRegion,
    Loaded,
    Ready,
    StateName,
)
from ballonet.migration.rendezvous import Listener
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["ArrivingGuest"]


class ArrivingGuest:
    """One guest on its way, over its first channel."""

    def __init__(self, link: EngineLink, order: dict[str, Any]) -> None:
        self.link: Final = link
        self.memory_fd: Final = int(order["memory_fd"])
        self._states_fd = int(order["states_fd"])
        self.size: Final = int(order["size"])
        region = GuestRegion(0, self.size, BALLOON_PAGE_BYTES)
        self.begin: Final = Begin(
            (region,), order["has_checksums"], order["may_postcopy"], order["migration_id"]
        )
        uri = str(order["uri"])
        #: Where its source may come again.
        self.listener: Final = Listener(
            socket.socket(fileno=int(order["listener_fd"])), uri, TIMEOUT_S
        )
        channel = SocketChannel(socket.socket(fileno=int(order["channel_fd"])), uri)
        reader = RecordReader.after_begin(FORWARD, self.begin)
        self.answers: Final = AnsweringChannel(channel, reader)
        memory = MemoryFile([(Region(0, self.size, 0, 0), self.memory_fd)])
        self.incoming: Final = Incoming(memory, (region,), frozenset(StateName))
        self.incoming.feed(self.begin)

    def receive(self) -> None:
        """Take all that comes before the guest may run. Raises: BallonetError."""
        self.answers.say(Ready())
        while not self.incoming.may_run:
            self.incoming.feed(self.answers.receive())

    def hand_states_over(self) -> None:
        """Have the machine load them; it says `loaded`, or `failed` and why.

        Raises: MigrationError, if it is gone.
        """
        states = self.incoming.states
        raw, at = b"".join(states.values()), 0
        while at < len(raw):
            at += os.pwrite(self._states_fd, raw[at:], at)
        sizes = {name.name.lower(): len(state) for name, state in states.items()}
        self.link.tell("load", sizes=sizes)

    def go_on_whole(self) -> None:
        """All of it has come: let it go on when the source says so. Raises: BallonetError."""
        self.hand_states_over()
        while (message := self.link.hear()) is None:
            select.select([self.link], [], [])
        if message["wish"] != "loaded":
            raise MigrationError(str(message["reason"]))
        self.answers.say(Loaded())
        record = self.answers.receive()
        self.incoming.feed(record)
        if not isinstance(record, Go):
            raise MigrationError("the source says something else than GO")
        self.link.tell("go", paused=record.is_paused)
        self.answers.close()
