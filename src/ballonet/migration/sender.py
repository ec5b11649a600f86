"""The source's half of a migration stream: guest memory out of a file, as records into a channel.

Pages are read into one buffer and sent from it; those of zeros go as holes, which costs nothing to
send and no memory at the destination.  A guest that writes meanwhile may tear a page: whoever calls
sends it again, because its write was seen.
Units: balloon pages, bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ballonet.memory.runs import PageRuns, merge_pfns
from ballonet.migration.channels import Channel
from ballonet.migration.framing import RecordWriter
from ballonet.migration.page_bounds import PageBounds
from ballonet.migration.page_checksums import checksums_of
from ballonet.migration.records import (
    PAGES_MAX,
    RUNS_MAX,
    STATE_PART_BYTES,
    Begin,
    End,
    Go,
    GuestRegion,
    Holes,
    Pages,
    Pass,
    Postcopy,
    Record,
    State,
    StateName,
    Totals,
    Verify,
)
from ballonet.migration.run_pieces import WORDS, find_zero_pages, pages_of, pieces, slices, spans
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["ReadPages", "StreamSender"]

#: Fills a buffer with the pages of some runs, one after the other; a hole reads as zeros.
ReadPages: TypeAlias = Callable[[PageRuns, memoryview], None]

#: Pages of zeros that may wait, so that runs of them are sent whole.
_ZEROS_MAX: Final = 1 << 16


class StreamSender:
    """Sends one stream; `sent` is told of each record's bytes, and may raise to end it there."""

    def __init__(
        self,
        channel: Channel,
        regions: tuple[GuestRegion, ...],
        read: ReadPages,
        sent: Callable[[int], None],
    ) -> None:
        self._channel, self._regions, self._read, self._sent = channel, regions, read, sent
        self.bounds: Final = PageBounds((region.gpa, region.size) for region in regions)
        self._writer = RecordWriter()
        self._words = np.empty((PAGES_MAX, WORDS), np.uint64)
        self._buffer = self._words.data.cast("B")
        self._passes = 0
        self.sent_bytes = 0  #: of everything

    @property
    def totals(self) -> Totals:
        """What has been sent."""
        return self._writer.totals

    def begin(self, *, has_checksums: bool, may_postcopy: bool, migration_id: int = 0) -> None:
        """The first record. Raises: MigrationError, as all of these do."""
        self._send(Begin(self._regions, has_checksums, may_postcopy, migration_id))

    def begin_pass(self) -> None:
        """Announce the next pass over memory."""
        self._passes += 1
        self._send(Pass(self._passes))

    def send_pages(self, runs: PageRuns) -> None:
        """Read pages and send them, those of zeros as holes. Raises: what reading raises, too."""
        zeros: list[NDArray[np.uint64]] = []
        waiting = 0
        for piece in pieces(self.bounds.split(runs), PAGES_MAX):
            buffer = self._buffer[: piece.total_pages * BALLOON_PAGE_BYTES]
            self._read(piece, buffer)
            is_zero = find_zero_pages(self._words[: piece.total_pages])
            if is_zero is None:
                self._send(Pages(piece, (buffer,)))
                continue
            pfns = pages_of(piece)
            zeros.append(pfns[is_zero])
            self._send_some(pfns, ~is_zero)
            waiting += zeros[-1].size
            if waiting >= _ZEROS_MAX:
                self.send_holes(merge_pfns(np.concatenate(zeros)))
                zeros, waiting = [], 0
        if zeros:
            self.send_holes(merge_pfns(np.concatenate(zeros)))

    def send_holes(self, runs: PageRuns) -> None:
        """Say that pages hold no memory, and read as zero."""
        for part in slices(self.bounds.split(runs), RUNS_MAX):
            self._send(Holes(part))

    def send_checksums(self, runs: PageRuns) -> None:
        """Say what is in pages, for the destination to compare. Raises: what reading raises."""
        for piece in pieces(self.bounds.split(runs), PAGES_MAX):
            buffer = self._buffer[: piece.total_pages * BALLOON_PAGE_BYTES]
            self._read(piece, buffer)
            self._send(Verify(piece, (checksums_of(buffer).data.cast("B"),)))

    def send_state(self, name: StateName, state: bytes | bytearray) -> None:
        """Send the state of a part of the guest, which stands still."""
        view = memoryview(state)
        parts = max(1, -(-len(view) // STATE_PART_BYTES))
        for part in range(parts):
            data = view[part * STATE_PART_BYTES : (part + 1) * STATE_PART_BYTES]
            self._send(State(name, part, parts, (data,)))

    def send_postcopy(self, missing: PageRuns) -> None:
        """Say what the destination lacks, and that the guest goes on there."""
        parts = list(slices(self.bounds.split(missing), RUNS_MAX)) or [missing]
        for number, part in enumerate(parts, 1):
            self._send(Postcopy(self.totals, number == len(parts), part))

    def end(self) -> None:
        """Say that this was all, and what it was."""
        self._send(End(self.totals))
        self._channel.finish()

    def go(self, *, is_paused: bool = False) -> None:
        """Give the guest up: it is the destination's, and stands still there if it did here."""
        self._send(Go(is_paused))

    def _send_some(self, pfns: NDArray[np.uint64], is_sent: NDArray[np.bool_]) -> None:
        """Send some of the pages in the buffer, from where they lie."""
        if not is_sent.any():
            return
        data = tuple(
            self._buffer[start * BALLOON_PAGE_BYTES : stop * BALLOON_PAGE_BYTES]
            for start, stop in spans(np.flatnonzero(is_sent))
        )
        self._send(Pages(self.bounds.split(merge_pfns(pfns[is_sent])), data))

    def _send(self, record: Record) -> None:
        buffers = self._writer.pack(record)
        self._channel.send(buffers)
        size = sum(map(len, buffers))
        self.sent_bytes += size
        self._sent(size)
