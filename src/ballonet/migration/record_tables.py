"""The tables of records, between bytes and values; the layouts stand in records.py.

Whole arrays at a time, no loop over pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final, NamedTuple, TypeAlias, assert_never

import numpy as np

from ballonet.errors import UsageError, WireError
from ballonet.memory.regions import REGIONS_MAX
from ballonet.memory.runs import PageRuns
from ballonet.migration.page_checksums import CHECKSUM
from ballonet.migration.records import (
    PAGES_BYTES_MAX,
    PAGES_MAX,
    REASON_BYTES_MAX,
    RUNS_MAX,
    STATE_PART_BYTES,
    Begin,
    End,
    Failed,
    Go,
    GuestRegion,
    Holes,
    Loaded,
    Pages,
    Pass,
    Postcopy,
    Ready,
    Received,
    Record,
    RecordType,
    State,
    StateName,
    Totals,
    Verify,
    Wanted,
)
from ballonet.units import BALLOON_PAGE_BYTES

__all__ = ["LIMITS", "Limit", "pack_table", "parse_record"]

_SOURCE: Final = "migration/records.py"
#: The first page whose address has more than 63 bits.
_PFN_END: Final = 1 << 51
_RUN_PAGES_MAX: Final = (1 << 32) - 1

_RUN: Final = np.dtype([("first_pfn", "<u8"), ("pages", "<u4")])
_REGION: Final = np.dtype([("gpa", "<u8"), ("size", "<u8"), ("page_bytes", "<u8")])
_BEGIN: Final = Struct("<IIQ")
_NUMBER: Final = Struct("<Q")
_BOOL: Final = Struct("<I")
_STATE: Final = Struct("<III")
_TOTALS: Final = Struct("<QQQ")
_CHECKSUMS, _POSTCOPY = 1, 2  # flags of BEGIN


class Limit(NamedTuple):
    """How large a record may be: checked before any memory is taken for it; bytes."""

    table_min: int
    table_max: int
    data_max: int = 0


def _limit(head: int, most: int, entry: np.dtype[np.void], least: int = 0) -> Limit:
    return Limit(head + least * entry.itemsize, head + most * entry.itemsize)


LIMITS: Final[Mapping[RecordType, Limit]] = {
    RecordType.BEGIN: _limit(_BEGIN.size, REGIONS_MAX, _REGION, least=1),
    RecordType.PASS: Limit(_NUMBER.size, _NUMBER.size),
    RecordType.PAGES: Limit(_RUN.itemsize, PAGES_MAX * _RUN.itemsize, PAGES_BYTES_MAX),
    RecordType.HOLES: _limit(0, RUNS_MAX, _RUN, least=1),
    RecordType.STATE: Limit(_STATE.size, _STATE.size, STATE_PART_BYTES),
    RecordType.POSTCOPY: _limit(_TOTALS.size + _BOOL.size, RUNS_MAX, _RUN),
    RecordType.END: Limit(_TOTALS.size, _TOTALS.size),
    RecordType.GO: Limit(_BOOL.size, _BOOL.size),
    RecordType.VERIFY: Limit(
        _RUN.itemsize, PAGES_MAX * _RUN.itemsize, PAGES_MAX * CHECKSUM.itemsize
    ),
    RecordType.READY: Limit(0, 0),
    RecordType.LOADED: Limit(0, 0),
    RecordType.WANTED: Limit(_NUMBER.size, _NUMBER.size),
    RecordType.RECEIVED: _limit(_BOOL.size, RUNS_MAX, _RUN),
    RecordType.FAILED: Limit(1, REASON_BYTES_MAX),
}


def pack_table(record: Record) -> bytes:
    """The table of a record. Raises: UsageError, if it cannot be written down."""
    match record:
        case Begin():
            flags = _CHECKSUMS * record.has_checksums | _POSTCOPY * record.may_postcopy
            regions = np.array(list(record.regions), _REGION).tobytes()
            return _BEGIN.pack(BALLOON_PAGE_BYTES, flags, record.migration_id) + regions
        case Pass():
            return _NUMBER.pack(record.number)
        case Pages() | Holes() | Verify():
            return _pack_runs(record.runs)
        case State():
            return _STATE.pack(record.name, record.part, record.parts)
        case Postcopy():
            head = _TOTALS.pack(*record.totals) + _BOOL.pack(record.is_last)
            return head + _pack_runs(record.runs)
        case End():
            return _TOTALS.pack(*record.totals)
        case Go():
            return _BOOL.pack(record.is_paused)
        case _:
            return _pack_backward(record)


def _pack_backward(record: Ready | Loaded | Wanted | Received | Failed) -> bytes:
    match record:
        case Ready() | Loaded():
            return b""
        case Wanted():
            return _NUMBER.pack(record.pfn)
        case Received():
            return _BOOL.pack(record.is_last) + _pack_runs(record.runs)
        case Failed():
            words = " ".join(record.reason.split()) or "no reason was given"
            line = "".join(one if one.isprintable() else "?" for one in words)
            # A character that was cut in two is left out.
            return line.encode()[:REASON_BYTES_MAX].decode(errors="ignore").encode()
        case _:
            assert_never(record)


def parse_record(kind: RecordType, table: memoryview, data: memoryview) -> Record:
    """A record, of a length within LIMITS. Raises: WireError."""
    return _PARSERS[kind](table, data)


def _parse_begin(table: memoryview, _: memoryview) -> Begin:
    page_bytes, flags, migration_id = _BEGIN.unpack_from(table)
    if page_bytes != BALLOON_PAGE_BYTES:
        raise WireError("page_bytes", page_bytes, f"must be {BALLOON_PAGE_BYTES}", _SOURCE)
    if flags & ~(_CHECKSUMS | _POSTCOPY):
        raise WireError("flags", flags, "has unknown ones", _SOURCE)
    regions = _entries(table[_BEGIN.size :], _REGION).tolist()
    return Begin(
        regions=tuple(GuestRegion(*region) for region in regions),
        has_checksums=bool(flags & _CHECKSUMS),
        may_postcopy=bool(flags & _POSTCOPY),
        migration_id=migration_id,
    )


def _parse_pass(table: memoryview, _: memoryview) -> Pass:
    return Pass(*_NUMBER.unpack(table))


def _parse_pages(table: memoryview, data: memoryview) -> Pages:
    runs = _parse_runs(table)
    if runs.total_pages * BALLOON_PAGE_BYTES != len(data):
        raise WireError("data", len(data), f"must be {runs.total_pages} pages", _SOURCE)
    return Pages(runs, (data,))


def _parse_holes(table: memoryview, _: memoryview) -> Holes:
    return Holes(_parse_runs(table))


def _parse_verify(table: memoryview, data: memoryview) -> Verify:
    runs = _parse_runs(table)
    if runs.total_pages * CHECKSUM.itemsize != len(data):
        raise WireError("data", len(data), f"must be checksums of {runs.total_pages}", _SOURCE)
    return Verify(runs, (data,))


def _parse_state(table: memoryview, data: memoryview) -> State:
    name, part, parts = _STATE.unpack(table)
    if name not in set(StateName):
        raise WireError("name", name, "is no state", _SOURCE)
    if part >= parts:
        raise WireError("part", part, f"must be below {parts}", _SOURCE)
    return State(StateName(name), part, parts, (data,))


def _parse_postcopy(table: memoryview, _: memoryview) -> Postcopy:
    totals = Totals(*_TOTALS.unpack_from(table))
    return Postcopy(totals, *_parse_last_and_runs(table[_TOTALS.size :]))


def _parse_end(table: memoryview, _: memoryview) -> End:
    return End(Totals(*_TOTALS.unpack(table)))


def _parse_wanted(table: memoryview, _: memoryview) -> Wanted:
    (pfn,) = _NUMBER.unpack(table)
    if pfn >= _PFN_END:
        raise WireError("pfn", pfn, "is no page", _SOURCE)
    return Wanted(pfn)


def _parse_received(table: memoryview, _: memoryview) -> Received:
    return Received(*_parse_last_and_runs(table))


def _parse_failed(table: memoryview, _: memoryview) -> Failed:
    try:
        reason = bytes(table).decode()
    except UnicodeDecodeError as error:
        raise WireError("reason", bytes(table[:20]), "must be UTF-8", _SOURCE) from error
    if not reason.isprintable():  # it is shown to people, on their terminals
        raise WireError("reason", reason[:20], "must be one printable line", _SOURCE)
    return Failed(reason)


_Parser: TypeAlias = Callable[[memoryview, memoryview], Record]
_PARSERS: Final[Mapping[RecordType, _Parser]] = {
    RecordType.BEGIN: _parse_begin,
    RecordType.PASS: _parse_pass,
    RecordType.PAGES: _parse_pages,
    RecordType.HOLES: _parse_holes,
    RecordType.STATE: _parse_state,
    RecordType.POSTCOPY: _parse_postcopy,
    RecordType.END: _parse_end,
    RecordType.GO: lambda table, _: Go(_parse_bool("is_paused", table)),
    RecordType.VERIFY: _parse_verify,
    RecordType.READY: lambda _table, _data: Ready(),
    RecordType.LOADED: lambda _table, _data: Loaded(),
    RecordType.WANTED: _parse_wanted,
    RecordType.RECEIVED: _parse_received,
    RecordType.FAILED: _parse_failed,
}


def _pack_runs(runs: PageRuns) -> bytes:
    if runs.pages.size and int(runs.pages.max()) > _RUN_PAGES_MAX:
        raise UsageError("a run of pages too long for 32 bits")
    table = np.empty(runs.pages.size, _RUN)
    table["first_pfn"] = runs.first_pfns
    table["pages"] = runs.pages
    return table.tobytes()


def _parse_runs(raw: memoryview) -> PageRuns:
    """Raises: WireError, unless they ascend, none is empty and none overlaps another."""
    table = _entries(raw, _RUN)
    if (table["first_pfn"] >= _PFN_END).any():
        raise WireError("first_pfn", int(table["first_pfn"].max()), "is no page", _SOURCE)
    firsts = table["first_pfn"].astype(np.int64)
    pages = table["pages"].astype(np.int64)
    if (pages == 0).any():
        raise WireError("pages", 0, "a run must have some", _SOURCE)
    if (firsts[1:] < firsts[:-1] + pages[:-1]).any():
        raise WireError("runs", len(firsts), "must ascend and not overlap", _SOURCE)
    return PageRuns(firsts, pages)


def _parse_last_and_runs(raw: memoryview) -> tuple[bool, PageRuns]:
    return _parse_bool("is_last", raw), _parse_runs(raw[_BOOL.size :])


def _parse_bool(field: str, raw: memoryview) -> bool:
    (value,) = _BOOL.unpack_from(raw)
    if value > 1:
        raise WireError(field, value, "must be 0 or 1", _SOURCE)
    return bool(value)


def _entries(
    raw: memoryview, entry: np.dtype[np.void]
) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    if len(raw) % entry.itemsize:
        raise WireError("table", len(raw), f"must be a multiple of {entry.itemsize}", _SOURCE)
    return np.frombuffer(raw, entry)
