"""The records of a migration stream: what each one says, and its table of bytes.

A stream has two directions, each a preamble and numbered records; framing.py has preamble, header,
numbers and checksums.  Everything is little-endian.  What stands in the table of a record, in
brackets what follows it as data:

    source to destination
     1 BEGIN      page_bytes u32 = 4096, flags u32 (1 checksums of pages, 2 post-copy may follow),
                  id u64 of the migration, which a new channel after a broken one repeats,
                  then for each region gpa u64, size u64, page_bytes u64
     2 PASS       number u64, from 1: a new pass over memory begins
     3 PAGES      runs (the pages themselves, in the order of the runs, at most 1 MiB)
     4 HOLES      runs that hold no memory and read as zero; zero pages too
     5 STATE      name u32, part u32, parts u32 (at most 1 MiB of that state)
     6 POSTCOPY   totals, is_last u32, then runs the destination lacks and has to ask for
     7 END        totals
     8 GO         is_paused u32: the source has given the guest up, it is the destination's
     9 VERIFY     runs (CRC-32 u32 of each page, in the order of the runs, at most 256 pages): so
                  they must be at the destination now
    destination to source
    16 READY      BEGIN was accepted
    17 LOADED     everything was checked and loaded, the guest can run once GO comes; in post-copy
                  once more after END: all memory is there
    18 WANTED     pfn u64: the guest waits for this page
    19 RECEIVED   is_last u32, then runs that have arrived, for a new start of a broken channel
    20 FAILED     one line of UTF-8: why the destination has given up

    runs          for each first_pfn u64, pages u32; ascending, not empty, not overlapping
    totals        pages u64 in PAGES, hole_pages u64 in HOLES, records u64 before this one

Not here: bytes to records and back (record_tables.py); the order of records, and which pages exist
(incoming.py).  Units: bytes; balloon pages of 4 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final, NamedTuple, TypeAlias

from ballonet.memory.runs import PageRuns
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = [
    "BACKWARD",
    "FORWARD",
    "PAGES_BYTES_MAX",
    "PAGES_MAX",
    "REASON_BYTES_MAX",
    "RUNS_MAX",
    "STATE_PART_BYTES",
    "Begin",
    "End",
    "Failed",
    "Go",
    "GuestRegion",
    "Holes",
    "Loaded",
    "Pages",
    "Pass",
    "Postcopy",
    "Ready",
    "Received",
    "Record",
    "RecordType",
    "State",
    "StateName",
    "Totals",
    "Verify",
    "Wanted",
]

#: Pages of one record: 1 MiB, so that neither end ever needs a larger buffer.
PAGES_MAX: Final = 256
PAGES_BYTES_MAX: Final = PAGES_MAX * BALLOON_PAGE_BYTES
#: Runs of one record that carries no pages; 96 KiB of table.
RUNS_MAX: Final = 8192
STATE_PART_BYTES: Final = 1 << 20
REASON_BYTES_MAX: Final = 1000


class RecordType(IntEnum):
    """What a record is."""

    BEGIN = 1
    PASS = 2
    PAGES = 3
    HOLES = 4
    STATE = 5
    POSTCOPY = 6
    END = 7
    GO = 8
    VERIFY = 9
    READY = 16
    LOADED = 17
    WANTED = 18
    RECEIVED = 19
    FAILED = 20


class StateName(IntEnum):
    """Whose state a STATE record has a part of."""

    KERNEL = 1
    DRIVER = 2
    DEVICE = 3


class GuestRegion(NamedTuple):
    """One region of guest memory, as both ends must have it; bytes."""

    gpa: int
    size: int
    page_bytes: int  #: of the host


class Totals(NamedTuple):
    """What a stream has carried so far: one that was cut or shortened never has these."""

    pages: int  #: in PAGES, each time they were sent
    hole_pages: int  #: in HOLES
    records: int


@dataclass(frozen=True, slots=True)
class Begin:
    """What follows, and for what memory."""

    TYPE: ClassVar = RecordType.BEGIN
    regions: tuple[GuestRegion, ...]
    has_checksums: bool  #: of the pages themselves; everything else always has
    may_postcopy: bool
    migration_id: int = 0  #: at random, so that no two guests are mixed up over a new channel


@dataclass(frozen=True, slots=True)
class Pass:
    """A new pass over memory begins."""

    TYPE: ClassVar = RecordType.PASS
    number: int  #: from 1


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Pages, and what is in them."""

    TYPE: ClassVar = RecordType.PAGES
    runs: PageRuns
    data: tuple[memoryview, ...]  #: of a record that was read, valid until the next one is


@dataclass(frozen=True, slots=True, eq=False)
class Holes:
    """Pages that hold no memory, and read as zero."""

    TYPE: ClassVar = RecordType.HOLES
    runs: PageRuns


@dataclass(frozen=True, slots=True)
class State:
    """A part of the state of something."""

    TYPE: ClassVar = RecordType.STATE
    name: StateName
    part: int  #: from 0
    parts: int
    data: tuple[memoryview, ...]  #: of a record that was read, valid until the next one is


@dataclass(frozen=True, slots=True, eq=False)
class Postcopy:
    """The guest goes on at the destination, which asks for what it lacks."""

    TYPE: ClassVar = RecordType.POSTCOPY
    totals: Totals
    is_last: bool  #: no more such records follow
    runs: PageRuns  #: still missing at the destination


@dataclass(frozen=True, slots=True)
class End:
    """The stream is whole."""

    TYPE: ClassVar = RecordType.END
    totals: Totals


@dataclass(frozen=True, slots=True)
class Go:
    """The guest is the destination's: it never runs at the source again by itself."""

    TYPE: ClassVar = RecordType.GO
    is_paused: bool = False  #: its operator had it stand still


@dataclass(frozen=True, slots=True, eq=False)
class Verify:
    """What the destination must have got, if nothing was lost."""

    TYPE: ClassVar = RecordType.VERIFY
    runs: PageRuns
    data: tuple[memoryview, ...]  #: checksums; as with `Pages`


@dataclass(frozen=True, slots=True)
class Ready:
    """The destination has accepted BEGIN."""

    TYPE: ClassVar = RecordType.READY


@dataclass(frozen=True, slots=True)
class Loaded:
    """The destination has everything, and can let the guest run."""

    TYPE: ClassVar = RecordType.LOADED


@dataclass(frozen=True, slots=True)
class Wanted:
    """The guest waits for a page that is not at the destination yet."""

    TYPE: ClassVar = RecordType.WANTED
    pfn: int


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """What has arrived since the guest went on at the destination."""

    TYPE: ClassVar = RecordType.RECEIVED
    is_last: bool  #: no more such records follow
    runs: PageRuns


@dataclass(frozen=True, slots=True)
class Failed:
    """The destination has given up."""

    TYPE: ClassVar = RecordType.FAILED
    reason: str  #: one line


Record: TypeAlias = (
    Begin
    | Pass
    | Pages
    | Holes
    | State
    | Postcopy
    | End
    | Go
    | Verify
    | Ready
    | Loaded
    | Wanted
    | Received
    | Failed
)

#: From source to destination, and the other way.
FORWARD: Final = frozenset(one for one in RecordType if one < RecordType.READY)
BACKWARD: Final = frozenset(RecordType) - FORWARD
