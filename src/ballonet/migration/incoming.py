"""The destination of a migration: records in, guest memory and states out.

    WAITING ─BEGIN─▶ BEGUN ─PASS─▶ PASSES ─STATE─▶ STATES ─END─▶ COMPLETE
                PASS, PAGES, HOLES, VERIFY ↺         ↺ STATE
    COMPLETE ─GO─▶ HANDED_OVER
    STATES ─POSTCOPY─▶ MISSING ─the last POSTCOPY─▶ POSTCOPY ─END─▶ COMPLETE
                          ↺ POSTCOPY                   ↺ GO, PAGES, HOLES
    POSTCOPY, or what was refused there ─a new channel─▶ RESUMED ─BEGIN─▶ POSTCOPY

Theory of operation.  A record is taken whole or refused, and after a refusal nothing is taken any
more: the source still has the guest.  The guest may run only in COMPLETE, or in POSTCOPY where the
source has said so at the start; both are reached by totals that agree with what was counted here.
In POSTCOPY a page is taken only if it is missing: written twice, it would undo what the guest has
written meanwhile.  There the guest runs, so a refusal is the end of its channel alone.
Not here: bytes (framing.py), the memory itself, what the states mean.
Units: balloon pages, bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, NoReturn

import numpy as np

from ballonet.errors import StreamError, UsageError
from ballonet.memory.runs import PageRuns
from ballonet.migration.destination_memory import ComparedMemory, DestinationMemory
from ballonet.migration.page_bounds import PageBounds, describe_regions
from ballonet.migration.page_checksums import differing, named
from ballonet.migration.postcopy import runs_of
from ballonet.migration.records import (
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
    RecordType,
    State,
    StateName,
    Totals,
    Verify,
)
from ballonet.migration.run_pieces import pages_of
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = [
    "TRANSITIONS",
    "ComparedMemory",
    "DestinationMemory",
    "Incoming",
    "Phase",
    "state_bytes_max",
]


class Phase(Enum):
    """How far a migration has come at its destination."""

    WAITING = "before BEGIN"
    BEGUN = "before the first PASS"
    PASSES = "while memory is copied"
    STATES = "after the first STATE"
    MISSING = "while missing pages are named"
    POSTCOPY = "in post-copy"
    RESUMED = "before BEGIN of the new channel"
    COMPLETE = "after END"
    HANDED_OVER = "after GO"
    REFUSED = "after something was refused"


_T, _P = RecordType, Phase
#: type -> phase -> next phase; a phase that is missing refuses that record.  The last POSTCOPY
#: leads on from MISSING.
TRANSITIONS: Final[Mapping[RecordType, Mapping[Phase, Phase]]] = {
    _T.BEGIN: {_P.WAITING: _P.BEGUN, _P.RESUMED: _P.POSTCOPY},
    _T.PASS: {_P.BEGUN: _P.PASSES, _P.PASSES: _P.PASSES},
    _T.PAGES: {_P.PASSES: _P.PASSES, _P.POSTCOPY: _P.POSTCOPY},
    _T.HOLES: {_P.PASSES: _P.PASSES, _P.POSTCOPY: _P.POSTCOPY},
    _T.VERIFY: {_P.PASSES: _P.PASSES},
    _T.STATE: {_P.PASSES: _P.STATES, _P.STATES: _P.STATES},
    _T.POSTCOPY: dict.fromkeys((_P.PASSES, _P.STATES, _P.MISSING), _P.MISSING),
    _T.GO: {_P.COMPLETE: _P.HANDED_OVER, _P.POSTCOPY: _P.POSTCOPY},
    _T.END: dict.fromkeys((_P.PASSES, _P.STATES, _P.POSTCOPY), _P.COMPLETE),
}


def state_bytes_max(memory_bytes: int) -> int:
    """What the state of one part of a guest may take: four times what a busy kernel of ours has."""
    return (16 << 20) + memory_bytes // 128


class Incoming:
    """One migration that arrives; `states` are those that must come, each once."""

    def __init__(
        self,
        memory: ComparedMemory,
        regions: tuple[GuestRegion, ...],
        states: frozenset[StateName],
    ) -> None:
        #: Where pages go; whoever lets the guest run in post-copy puts another one here then.
        self.memory: DestinationMemory = memory
        self._read = memory.read
        self._regions, self._wanted_states = regions, states
        self._bounds = PageBounds((region.gpa, region.size) for region in regions)
        self._missing = np.zeros(0, np.bool_)  # by pfn, from the first POSTCOPY on
        self._arrived = np.zeros(0, np.bool_)
        self._parts: dict[StateName, bytearray] = {}
        self._next_part: tuple[StateName, int, int] | None = None  # of a state that goes on
        self._passes = self._records = self._pages = self._hole_pages = 0
        self._may_postcopy = self._is_in_postcopy = False
        self._migration_id = 0
        self.phase = Phase.WAITING

    @property
    def is_complete(self) -> bool:
        """Everything has arrived, and was checked."""
        return self.phase in (Phase.COMPLETE, Phase.HANDED_OVER)

    @property
    def may_run(self) -> bool:
        """The guest could run: everything has arrived, or the rest comes when it is asked for.

        Whether it may says the source, with GO.
        """
        return self.is_complete or self.phase in (Phase.POSTCOPY, Phase.RESUMED)

    @property
    def states(self) -> Mapping[StateName, bytearray]:
        """What came with STATE. Raises: UsageError, before the guest may run."""
        if not self.may_run:
            raise UsageError(f"the states of a migration {self.phase.value}")
        return self._parts

    @property
    def totals(self) -> Totals:
        """What has been taken."""
        return Totals(self._pages, self._hole_pages, self._records)

    @property
    def missing(self) -> PageRuns:
        """What post-copy still has to bring."""
        return runs_of(self._missing)

    @property
    def arrived(self) -> PageRuns:
        """What post-copy has brought: the source of a broken channel must not send it again."""
        return runs_of(self._arrived)

    def resume(self, arrived: PageRuns | None = None) -> None:
        """A new channel takes over in post-copy.

        `arrived`: all that has come, where somebody else has taken it.
        Raises: UsageError, if it is not in post-copy.
        """
        if not self._is_in_postcopy:
            raise UsageError(f"a migration is resumed {self.phase.value}")
        for first, pages in arrived.pairs() if arrived is not None else ():
            self._missing[first : first + pages] = False
            self._arrived[first : first + pages] = True
        self.phase = Phase.RESUMED
        self._records = self._pages = self._hole_pages = 0

    def feed(self, record: Record) -> None:
        """Take one record. Raises: StreamError; what the memory raises; all is refused then."""
        before, self.phase = self.phase, Phase.REFUSED  # unless all goes well
        after = TRANSITIONS.get(record.TYPE, {}).get(before)
        if after is None:
            self._refuse(record, f"it cannot come {before.value}")
        match record:
            case Begin():
                self._begin(record)
            case Pass():
                self._begin_pass(record)
            case Pages() | Holes():
                self._claim(record, before)
                self._fill(record)
            case Verify():
                self._compare(record)
            case State():
                self._keep_state(record)
            case Postcopy():
                self._keep_missing(record)
                self._is_in_postcopy = record.is_last
                after = Phase.POSTCOPY if record.is_last else after
            case End():
                self._end(record)
                self._is_in_postcopy = False
            case Go():
                pass
            case _:
                self._refuse(record, "it goes the other way")
        self._records += 1
        self.phase = after

    def _begin(self, record: Begin) -> None:
        if record.regions != self._regions:
            theirs, ours = describe_regions(record.regions), describe_regions(self._regions)
            self._refuse(record, f"the guest's memory is {theirs}, here it is {ours}")
        if self._is_in_postcopy and record.migration_id != self._migration_id:
            self._refuse(record, "it is another migration's")
        self._may_postcopy, self._migration_id = record.may_postcopy, record.migration_id

    def _begin_pass(self, record: Pass) -> None:
        self._passes += 1
        if record.number != self._passes:
            self._refuse(record, f"number {record.number}, expected {self._passes}")

    def _fill(self, record: Pages | Holes) -> None:
        if isinstance(record, Pages):
            (data,) = record.data
            self.memory.write(record.runs, data)
            self._pages += record.runs.total_pages
        else:
            self.memory.make_holes(record.runs)
            self._hole_pages += record.runs.total_pages

    def _claim(self, record: Pages | Holes, phase: Phase) -> None:
        """These pages exist, and may be overwritten."""
        self._check_bounds(record)
        if phase is not Phase.POSTCOPY:
            return
        parts = [slice(first, first + pages) for first, pages in record.runs.pairs()]
        for here in parts:  # all are looked at first: a record that is refused has brought nothing
            if not self._missing[here].all():
                self._refuse(record, f"pages from {here.start:#x} are here already")
        for here in parts:
            self._missing[here] = False
            self._arrived[here] = True

    def _compare(self, record: Verify) -> None:
        """What is here is what the source has."""
        self._check_bounds(record)
        buffer = memoryview(bytearray(record.runs.total_pages * BALLOON_PAGE_BYTES))
        self._read(record.runs, buffer)
        differ = pages_of(record.runs)[differing(buffer, record.data[0])]
        if differ.size:
            self._refuse(record, f"not as at the source: pages {named(differ)}")

    def _check_bounds(self, record: Pages | Holes | Verify | Postcopy) -> None:
        if self._bounds.find(record.runs) is None:
            self._refuse(record, "pages outside of guest memory")

    def _keep_state(self, record: State) -> None:
        name, (data,) = record.name, record.data
        is_first = self._next_part is None and name not in self._parts
        expected = (name, 0, record.parts) if is_first else self._next_part
        if (name, record.part, record.parts) != expected:
            self._refuse(record, f"part {record.part} of {record.parts} of {name.name}, unexpected")
        if name not in self._wanted_states:
            self._refuse(record, f"the state of the {name.name.lower()} is not wanted")
        limit = state_bytes_max(self._bounds.total_pages << 12)
        if record.parts > -(-limit // STATE_PART_BYTES):
            self._refuse(record, f"{record.parts} parts, at most {limit} bytes are taken")
        self._parts.setdefault(name, bytearray()).extend(data)
        is_last = record.part + 1 == record.parts
        self._next_part = None if is_last else (name, record.part + 1, record.parts)

    def _keep_missing(self, record: Postcopy) -> None:
        if not self._may_postcopy:
            self._refuse(record, "BEGIN said that no post-copy follows")
        self._check_totals(record)
        self._check_states(record)
        self._check_bounds(record)
        if not self._missing.size:
            self._missing = np.zeros(self._bounds.end_pfn, np.bool_)
            self._arrived = np.zeros(self._bounds.end_pfn, np.bool_)
        # What an earlier pass has brought of them is out of date, and must not be found there.
        self.memory.make_holes(record.runs)
        for first, pages in record.runs.pairs():
            self._missing[first : first + pages] = True

    def _end(self, record: End) -> None:
        self._check_totals(record)
        self._check_states(record)
        if self._missing.any():
            self._refuse(record, f"{np.count_nonzero(self._missing)} pages are missing")

    def _check_states(self, record: Postcopy | End) -> None:
        if self._next_part is not None or self._parts.keys() != self._wanted_states:
            self._refuse(record, "not every state has come")

    def _check_totals(self, record: Postcopy | End) -> None:
        if record.totals != self.totals:
            self._refuse(record, f"the source counts {record.totals}, here are {self.totals}")

    def _refuse(self, record: Record, reason: str) -> NoReturn:
        raise StreamError(record.TYPE.name, self._records, reason)
