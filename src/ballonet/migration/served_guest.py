"""The guest whose memory follows it: what its source says over one channel, and what it hears.

A `PostcopySource`.  Once the guest was handed over, its machine here is needed for nothing but to
begin anew: the memory is ours by a descriptor of its file.  So a machine that ends then takes
nothing along, and one that wants to cancel is late.
Units: balloon pages, bytes, nanoseconds.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import numpy as np

from ballonet.balloon.clock import NS_PER_S
from ballonet.errors import MigrationError, StreamError, SystemCallError
from ballonet.memory.held_pages import held_pages
from ballonet.memory.runs import PageRuns
from ballonet.migration.channels import Channel
from ballonet.migration.framing import RecordReader
from ballonet.migration.link import EngineLink
from ballonet.migration.postcopy import as_set, pages_of_ranges, runs_of
from ballonet.migration.postcopy_passes import Heard, Pages
from ballonet.migration.receiver import receive_record
from ballonet.migration.records import Failed, Loaded, Received, Record, Wanted
from ballonet.migration.sender import StreamSender

__all__ = ["ServedGuest"]

#: Heard at once, whatever the destination says.
_RECORDS_MAX: Final = 256


class ServedGuest:
    """One guest and one channel; owns neither."""

    def __init__(
        self,
        link: EngineLink,
        channel: Channel,
        sender: StreamSender,
        *,
        answers: RecordReader,
        memory_fd: int,
        look: Callable[[], None],
        keep: Callable[[Pages], None],
    ) -> None:
        """`look` tells how far it is, and raises to end it; `keep` is given what follows."""
        self._link, self._channel, self._sender, self._answers = link, channel, sender, answers
        self._memory_fd, self._look, self._keep = memory_fd, look, keep
        self._pages = sender.bounds.end_pfn
        self.is_asked = False  #: somebody wants the guest to go now
        self.has_left = False  #: it is the destination's
        self._is_paused = False

    def needed_at_once(self) -> PageRuns:
        """What the device uses: rings and the driver's buffers."""
        answer, _ = self._link.ask("device_memory")
        return pages_of_ranges(answer["memory"])

    def holes(self) -> PageRuns:
        """Pages without memory."""
        try:
            return runs_of(~held_pages(self._memory_fd, self._pages))
        except OSError as error:
            reason = error.strerror or str(error)
            raise SystemCallError("finding holes in", "guest memory", reason) from error

    def announce(self, missing: PageRuns) -> None:
        """Say what the destination has to ask for, once it is written down here."""
        self._keep(as_set(missing, self._pages))
        self._sender.send_postcopy(missing)

    def send(self, runs: PageRuns) -> int:
        """Send pages; returns the bytes."""
        before = self._sender.sent_bytes
        self._sender.send_pages(runs)
        return self._sender.sent_bytes - before

    def hear(self, wait_ns: int) -> Heard:
        """What the destination has said; waits so long for anything."""
        self._glance()
        wanted: list[int] = []
        is_loaded = False
        wait_s = wait_ns / NS_PER_S
        for _ in range(_RECORDS_MAX):
            if not select.select([self._channel], [], [], wait_s)[0]:
                break
            wait_s = 0
            match self._receive():
                case Wanted(pfn):
                    wanted.append(pfn)
                case Loaded() if not self.has_left:
                    is_loaded = True
                case record:
                    raise _unexpected(record)
        return Heard(wanted, is_loaded)

    def hand_over(self) -> None:
        """Give the guest up: it never runs here again by itself."""
        self._look()
        answer, _ = self._link.ask("hand_over", postcopy=True)
        self.has_left, self._is_paused = True, bool(answer["paused"])

    def take_over(self, *, is_paused: bool) -> PageRuns:
        """Go on with a guest that has left, over this new channel; returns what is there by now."""
        self.has_left, self._is_paused = True, is_paused
        received = np.zeros(self._pages, np.bool_)
        for _ in range(self._pages):  # a record that is not the last names a page at least
            record = self._receive()
            if not isinstance(record, Received):
                raise _unexpected(record)
            received |= as_set(record.runs, self._pages)
            if record.is_last:
                return runs_of(received)
        raise MigrationError("the destination names more pages than the guest has")

    def go(self) -> None:
        """Let the guest go on at the destination."""
        self._sender.go(is_paused=self._is_paused)

    def end(self) -> None:
        """Say that everything was sent; returns when all of it is there."""
        self._sender.end()
        while not isinstance(record := self._receive(), Loaded):
            if not isinstance(record, Wanted):  # of a page that was on its way then
                raise _unexpected(record)

    def _glance(self) -> None:
        """Look; a machine that is gone, or wants an end, is nobody's business any more after it."""
        if not self.has_left:
            self._look()
            return
        if select.select([], [self._link], [], 0)[1]:  # one that hangs is not waited for
            with suppress(MigrationError):
                self._look()

    def _receive(self) -> Record:
        try:
            record = receive_record(self._channel, self._answers)
        except StreamError as error:
            raise MigrationError(f"what the destination answers: {error}") from error
        if isinstance(record, Failed):
            raise MigrationError(f"the destination refuses: {record.reason}")
        return record


def _unexpected(record: Record) -> MigrationError:
    return MigrationError(f"the destination answers {record.TYPE.name}")
