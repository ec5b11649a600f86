"""The guest that an engine moves: its memory by its file, its process by the link.

A `Source` of the passes.  What it does not know itself it asks the guest's machine, which stops and
resumes it; what it sends goes through one stream.
Units: balloon pages, bytes, nanoseconds.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from ballonet.errors import BallonetError, MigrationError, StreamError, SystemCallError
from ballonet.memory.held_pages import held_pages
from ballonet.memory.regions import Region
from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.migration.channels import Channel
from ballonet.migration.framing import RecordReader
from ballonet.migration.link import EngineLink
from ballonet.migration.memory_file import MemoryFile
from ballonet.migration.missing_list import write_missing
from ballonet.migration.passes import Pages
from ballonet.migration.receiver import receive_record
from ballonet.migration.records import BACKWARD, Failed, GuestRegion, Loaded, Ready, StateName
from ballonet.migration.sender import StreamSender
from ballonet.migration.served_guest import ServedGuest
from ballonet.migration.tracking import WriteTracker
from ballonet.units import BALLOON_PAGE_SHIFT

__all__ = ["GuestFacts", "MovingGuest"]

_TELL_NS: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """Where an engine finds the guest."""

    pid: int
    address: int  #: of its memory, in that process
    size: int  #: bytes
    memory_fd: int  #: there
    missing_fd: int  #: there: a file for the list of what follows it in post-copy

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> GuestFacts:
        """As its machine says it."""
        return cls(*(int(fields[name]) for name in cls.__dataclass_fields__))


class MovingGuest:
    """One guest and the stream to its destination; a context manager."""

    def __init__(
        self, link: EngineLink, channel: Channel, facts: GuestFacts, tell: Callable[[], None]
    ) -> None:
        """`tell` is called now and then, to say how far it has come."""
        self._link, self._channel, self._facts, self._tell = link, channel, facts, tell
        self._stack = ExitStack()
        region = GuestRegion(0, facts.size, 1 << BALLOON_PAGE_SHIFT)
        self._fd = _open_memory(facts)
        self._stack.callback(os.close, self._fd)
        memory = MemoryFile([(Region(0, facts.size, 0, 0), self._fd)])
        self.sender: Final = StreamSender(channel, (region,), memory.read, self._sent)
        self._answers = RecordReader(BACKWARD)
        #: The same guest, when it goes before its memory.
        self.postcopy: Final = ServedGuest(
            link,
            channel,
            self.sender,
            answers=self._answers,
            memory_fd=self._fd,
            look=self._look_at_machine,
            keep=lambda missing: write_missing(facts.pid, facts.missing_fd, missing),
        )
        self._tracker = WriteTracker(facts.pid, facts.address, facts.size)
        self._holes: Pages | None = None  # while the first pass lasts
        self._has_content = np.zeros(self.pages, np.bool_)  # sent with it, at any time
        self._sent_bytes = 0
        self._told_ns = 0
        self._throttle_percent = 0
        self._is_handed_over = False
        self.stopped_ns: int | None = None  #: when the guest was stopped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tracker.close()
        self._stack.close()

    @property
    def pages(self) -> int:
        """Of its memory."""
        return self._facts.size >> BALLOON_PAGE_SHIFT

    def begin(self, *, has_checksums: bool, may_postcopy: bool, migration_id: int) -> None:
        """Say what comes; returns when the destination wants it. Raises: MigrationError."""
        self.sender.begin(
            has_checksums=has_checksums, may_postcopy=may_postcopy, migration_id=migration_id
        )
        self._wait_for(Ready)

    def start_tracking(self) -> None:
        """See every write from now on, the device's too."""
        self._link.ask("start_tracking")
        self._tracker.start()
        self._holes = self._find_holes()
        self.sender.begin_pass()

    def stop_tracking(self) -> None:
        """Let them write unseen again."""
        self._tracker.close()
        if not self.postcopy.has_left:  # else nobody writes there, and the guest waits elsewhere
            self._link.ask("stop_tracking")

    def read_guest_log(self) -> PageRuns:
        """What the guest has written since the last call."""
        self._holes = None
        self.sender.begin_pass()
        return self._tracker.take()

    def read_device_log(self) -> PageRuns:
        """What its device has written."""
        _, raw = self._link.ask("device_log")
        return merge_pfns(np.frombuffer(raw, "<u8"))

    def send(self, runs: PageRuns) -> int:
        """Send pages as they are now; returns the bytes that needs."""
        before = self._sent_bytes
        if self._holes is None:
            self._send_pages(runs)
        else:
            self._send_present(runs, self._holes)
        self._look()
        return self._sent_bytes - before

    def pause(self, ns: int) -> None:
        """Send nothing for so long."""
        end_ns = time.monotonic_ns() + ns
        while (left_ns := end_ns - time.monotonic_ns()) > 0:
            self._look()
            select.select([self._link], [], [], min(left_ns, _TELL_NS) / 1e9)

    def throttle(self, percent: int) -> None:
        """Let the guest stand still for a part of its time."""
        if percent != self._throttle_percent:
            self._throttle_percent = percent
            self._link.ask("throttle", percent=percent)

    def stop_guest(self) -> None:
        """Stop the guest and its device."""
        self.stopped_ns = time.monotonic_ns()
        self._link.ask("stop_guest")

    def resume_guest(self) -> None:
        """Let them go on here, unless the guest may run at the destination."""
        if not self._is_handed_over and not self.postcopy.has_left:
            self._link.ask("resume_guest")

    def send_holes(self) -> None:
        """Tell which pages are not there any more.

        Memory that was dropped changes without being written; what never was sent is a hole there.
        """
        gone = np.flatnonzero(self._find_holes() & self._has_content)
        if gone.size:
            self.sender.send_holes(merge_pfns(gone.view(np.uint64)))

    def send_checksums(self, runs: PageRuns) -> None:
        """Have the destination compare these pages with what it has."""
        self.sender.send_checksums(runs)

    def send_state(self) -> None:
        """Send the states of kernel, driver and device."""
        answer, raw = self._link.ask("state")
        at = 0
        for name, size in answer["sizes"].items():
            self.sender.send_state(StateName[str(name).upper()], raw[at : at + size])
            at += size

    def commit(self) -> None:
        """Let the guest go on at the destination.

        Up to `hand_over` the guest is ours, whatever happens; after it the destination's, and it
        must never run here by itself: whether the last word has arrived cannot be known.
        """
        self.sender.end()
        if self._channel.is_two_way:
            self._wait_for(Loaded)
        self._look()
        self._is_handed_over = True  # also if the answer is lost
        answer, _ = self._link.ask("hand_over")
        self.sender.go(is_paused=answer["paused"])

    def hear_why(self) -> None:
        """After an error of the channel: what the destination has said before it left.

        Raises: MigrationError, if it has given up and said why.
        """
        if not self._has_answer():
            return
        try:
            record = receive_record(self._channel, self._answers)
        except BallonetError:
            return
        if isinstance(record, Failed):
            raise MigrationError(f"the destination refuses: {record.reason}")

    def _send_present(self, runs: PageRuns, holes: Pages) -> None:
        """Send what is there; what is a hole, or was one when tracking began, is said to be one."""
        pfns = np.concatenate(
            [
                np.arange(first, first + pages)
                for first, pages in zip(*map(np.ndarray.tolist, runs), strict=True)
            ]
        ).astype(np.uint64)
        is_hole = holes[pfns]
        if is_hole.any():
            self.sender.send_holes(merge_pfns(pfns[is_hole]))
            pfns = pfns[~is_hole]
        if pfns.size:
            self._send_pages(merge_pfns(pfns))

    def _send_pages(self, runs: PageRuns) -> None:
        for first, pages in runs.pairs():
            self._has_content[first : first + pages] = True
        self.sender.send_pages(runs)

    def _find_holes(self) -> Pages:
        """Raises: MigrationError."""
        try:
            return ~held_pages(self._fd, self.pages)
        except OSError as error:
            raise MigrationError(f"guest memory cannot be looked at: {error.strerror}") from error

    def _wait_for(self, kind: type[Ready | Loaded]) -> None:
        """Raises: MigrationError, with what the destination says."""
        if self._channel.is_two_way:
            self._hear(kind)

    def _hear(self, *kinds: type[Ready | Loaded]) -> None:
        """Raises: MigrationError, unless it is one of these."""
        try:
            record = receive_record(self._channel, self._answers)
        except StreamError as error:
            raise MigrationError(f"the destination is gone, or makes no sense: {error}") from error
        if isinstance(record, Failed):
            raise MigrationError(f"the destination refuses: {record.reason}")
        if not isinstance(record, kinds):
            raise MigrationError(f"the destination answers {record.TYPE.name}")

    def _has_answer(self) -> bool:
        return self._channel.is_two_way and bool(select.select([self._channel], [], [], 0)[0])

    def _sent(self, size: int) -> None:
        self._sent_bytes += size

    def _look(self) -> None:
        """Hear whether it is to go on, on either side. Raises: MigrationError."""
        self._look_at_machine()
        if self._has_answer():
            self._hear()  # nothing but why it has given up

    def _look_at_machine(self) -> None:
        """Say how far it is, and hear whether it is to go on. Raises: MigrationError."""
        while (wish := self._link.wish()) is not None:
            if wish == "cancel":
                raise MigrationError("cancelled")
            self.postcopy.is_asked |= wish == "postcopy"
        now_ns = time.monotonic_ns()
        if now_ns - self._told_ns >= _TELL_NS:
            self._told_ns = now_ns
            self._tell()


def _open_memory(facts: GuestFacts) -> int:
    """Raises: SystemCallError, if the guest's process is gone."""
    try:
        return os.open(f"/proc/{facts.pid}/fd/{facts.memory_fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        target = f"the memory of process {facts.pid}"
        raise SystemCallError("opening", target, error.strerror or str(error)) from error
