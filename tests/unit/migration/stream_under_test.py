"""A destination in plain bytes, and a small stream for it, written record by record."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from ballonet.errors import StreamError
from ballonet.memory.runs import PageRuns
from ballonet.migration.framing import RecordReader, RecordWriter
from ballonet.migration.incoming import Incoming
from ballonet.migration.records import (
    FORWARD,
    Begin,
    End,
    GuestRegion,
    Holes,
    Pages,
    Pass,
    Record,
    State,
    StateName,
    Verify,
)

PAGE: Final = 4096
#: Two regions with a gap between them: pages 0 to 15 and 32 to 47.
REGIONS: Final = (GuestRegion(0, 16 * PAGE, PAGE), GuestRegion(32 * PAGE, 16 * PAGE, PAGE))
STATES: Final = frozenset({StateName.KERNEL, StateName.DEVICE})


class PlainMemory:
    """A `DestinationMemory`: every page by its number; what is not there is a hole."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}

    def write(self, runs: PageRuns, data: memoryview) -> None:
        """One page after the other."""
        for place, pfn in enumerate(numbers(runs)):
            self.pages[pfn] = bytes(data[place * PAGE : (place + 1) * PAGE])

    def read(self, runs: PageRuns, buffer: memoryview) -> None:
        """Holes as zeros."""
        buffer[:] = b"".join(self.pages.get(pfn, bytes(PAGE)) for pfn in numbers(runs))

    def make_holes(self, runs: PageRuns) -> None:
        """Forget them."""
        for pfn in numbers(runs):
            self.pages.pop(pfn, None)


def make_runs(*pairs: tuple[int, int]) -> PageRuns:
    """Runs from first page and pages."""
    firsts, pages = zip(*pairs, strict=True) if pairs else ((), ())
    return PageRuns(np.array(firsts, np.int64), np.array(pages, np.int64))


def numbers(runs: PageRuns) -> list[int]:
    """Every page of some runs."""
    pairs = zip(runs.first_pfns.tolist(), runs.pages.tolist(), strict=True)
    return [pfn for first, pages in pairs for pfn in range(first, first + pages)]


def page(fill: int) -> bytes:
    """One page, each byte the same."""
    return bytes([fill]) * PAGE


def pages(fills: Iterable[int], *pairs: tuple[int, int]) -> Pages:
    """Pages, each with a byte of its own."""
    return Pages(make_runs(*pairs), (memoryview(b"".join(map(page, fills))),))


def state(name: StateName, data: bytes, part: int = 0, parts: int = 1) -> State:
    """A part of a state."""
    return State(name, part, parts, (memoryview(data),))


def verify(fills: Iterable[int], *pairs: tuple[int, int]) -> Verify:
    """The checksums of such pages."""
    raw = b"".join(zlib.crc32(page(fill)).to_bytes(4, "little") for fill in fills)
    return Verify(make_runs(*pairs), (memoryview(raw),))


def begin(
    *, has_checksums: bool = True, may_postcopy: bool = False, migration_id: int = 0
) -> Begin:
    """For the memory above."""
    return Begin(REGIONS, has_checksums, may_postcopy, migration_id)


def small_migration() -> list[Record]:
    """Two passes with everything in them; END comes from the writer."""
    return [
        begin(),
        Pass(1),
        pages([1, 2, 3], (0, 2), (32, 1)),
        Holes(make_runs((4, 12), (40, 8))),
        Pass(2),
        pages([9], (1, 1)),
        verify([9, 0], (1, 1), (4, 1)),
        state(StateName.KERNEL, b"kernel, part one", 0, 2),
        state(StateName.KERNEL, b" and two", 1, 2),
        state(StateName.DEVICE, b"device"),
    ]


#: What the memory holds after it.
SMALL_RESULT: Final = {0: page(1), 1: page(9), 32: page(3)}


def written(records: Iterable[Record], *, ends: bool = True) -> list[bytes]:
    """The bytes of each record, the preamble with the first; END with right totals at last."""
    writer = RecordWriter()
    raw = [b"".join(writer.pack(record)) for record in records]
    return [*raw, b"".join(writer.pack(End(writer.totals)))] if ends else raw


class Destination:
    """Takes bytes as they come from a channel."""

    def __init__(self, states: frozenset[StateName] = STATES) -> None:
        self.memory = PlainMemory()
        self.incoming = Incoming(self.memory, REGIONS, states)
        self.reader = RecordReader(FORWARD)
        self.largest_buffer = 0

    def take(self, raw: bytes) -> None:
        """Feed a stream to its end. Raises: StreamError, also for one that is cut."""
        left = memoryview(raw)
        while left:
            buffer = self.reader.buffer
            self.largest_buffer = max(self.largest_buffer, len(buffer))
            if len(left) < len(buffer):
                self.reader.cut()
            buffer[:] = left[: len(buffer)]
            left = left[len(buffer) :]
            record = self.reader.filled()
            if record is not None:
                self.incoming.feed(record)
        if not self.incoming.is_complete:
            self.reader.cut()


def refusal(raw: Sequence[bytes] | bytes) -> tuple[StreamError, Destination]:
    """The error of a stream that has to be refused, and the destination after it."""
    destination = Destination()
    try:
        destination.take(raw if isinstance(raw, bytes) else b"".join(raw))
    except StreamError as error:
        assert not destination.incoming.may_run
        return error, destination
    raise AssertionError("a stream was taken that is wrong")
