"""A migration whose guest has left, and whose channel or engine was lost: the rest, by another.

Nothing here has changed since the guest was stopped.  What was to follow it is written down, and
the destination says what it has received of that.
Units: bytes, milliseconds.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from typing import Any, Final

from ballonet.errors import MigrationError
from ballonet.memory.regions import Region
from ballonet.migration.framing import RecordReader
from ballonet.migration.link import EngineLink
from ballonet.migration.memory_file import MemoryFile
from ballonet.migration.missing_list import read_missing
from ballonet.migration.moving_guest import GuestFacts
from ballonet.migration.postcopy import ServedPages
from ballonet.migration.postcopy_passes import Following, Pages
from ballonet.migration.progress import Progress, with_following
from ballonet.migration.records import BACKWARD, GuestRegion
from ballonet.migration.rendezvous import connect
from ballonet.migration.sender import StreamSender
from ballonet.migration.served_guest import ServedGuest
from ballonet.migration.settings import MigrationSettings
from ballonet.runtime.system_clock import SystemClock
from ballonet.units import BALLOON_PAGE_BYTES, bytes_to_pages

__all__ = ["ResumedMigration"]

_TELL_NS: Final = 100_000_000
_NS_PER_MS: Final = 1_000_000


class ResumedMigration:
    """One more channel for what follows a guest."""

    has_left: Final = True

    def __init__(
        self, link: EngineLink, order: dict[str, Any], settings: MigrationSettings
    ) -> None:
        self._link, self._order, self._settings = link, order, settings
        self._facts = GuestFacts.from_fields(order)
        self._before = Progress(**order["progress"])
        self._begun_ns = self._told_ns = time.monotonic_ns()
        self._following: Following | None = None

    def run(self) -> None:
        """Raises: BallonetError; the guest waits on then."""
        facts = self._facts
        with ExitStack() as stack:
            fd = os.open(f"/proc/{facts.pid}/fd/{facts.memory_fd}", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            served = ServedPages(self._read_missing())
            channel = stack.enter_context(connect(self._order["uri"]))
            memory = MemoryFile([(Region(0, facts.size, 0, 0), fd)])
            region = GuestRegion(0, facts.size, BALLOON_PAGE_BYTES)
            sender = StreamSender(channel, (region,), memory.read, lambda _: None)
            guest = ServedGuest(
                self._link,
                channel,
                sender,
                answers=RecordReader(BACKWARD),
                memory_fd=fd,
                look=self._look,
                keep=lambda _: None,
            )
            sender.begin(
                has_checksums=self._settings.checksums,
                may_postcopy=True,
                migration_id=self._order["migration_id"],
            )
            served.resume(guest.take_over(is_paused=self._order["paused"]))
            self._link.tell("status", status="postcopy-active", reason=None)
            self._following = Following(guest, served, self._settings, SystemClock())
            self._following.rest()
            with suppress(MigrationError):  # its machine is not needed any more
                self._tell()

    def _read_missing(self) -> Pages:
        facts = self._facts
        return read_missing(facts.pid, facts.missing_fd, bytes_to_pages(facts.size))

    def _look(self) -> None:
        """Say how far it is, now and then."""
        now_ns = time.monotonic_ns()
        if now_ns - self._told_ns >= _TELL_NS:
            self._told_ns = now_ns
            self._tell()

    def _tell(self) -> None:
        if self._following is None:
            return
        total_ms = self._before.total_ms + (time.monotonic_ns() - self._begun_ns) // _NS_PER_MS
        progress = with_following(self._before, self._following, total_ms)
        self._link.tell("progress", progress=progress.as_fields())
