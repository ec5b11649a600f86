"""Cutting a migration stream into records, and putting records into one.

    preamble    magic 8s = "BALLNMIG", version u16              once, before the first record
    header      type u32, table_bytes u32, number u64 from 0,   before each record
                payload_bytes u64 (table and data),
                table_crc u32, data_crc u32, header_crc u32 (of all before it)

Checksums are CRC-32.  Those of pages are left out (0) if BEGIN says so: they cost as much as the
sending.  A header is checked in full before memory is taken for what it announces; so nobody makes
us take more than one buffer, and nothing is read as something it is not.
A checksum finds what has gone wrong on the way, not somebody who means harm and can compute it too.
Not here: the socket (receiver.py, sender.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from struct import Struct
from typing import Final, NoReturn, Self

from ballonet.errors import StreamError, WireError
from ballonet.migration.record_tables import LIMITS, pack_table, parse_record
from ballonet.migration.records import (
    Begin,
    Holes,
    Pages,
    Record,
    RecordType,
    State,
    Totals,
    Verify,
)

__all__ = ["HEADER_BYTES", "PREAMBLE", "VERSION", "RecordReader", "RecordWriter", "payload_max"]

_MAGIC: Final = b"BALLNMIG"
VERSION: Final = 1
_PREAMBLE: Final = Struct("<8sH")
PREAMBLE: Final = _PREAMBLE.pack(_MAGIC, VERSION)
_FIELDS: Final = Struct("<IIQQII")
_CRC: Final = Struct("<I")
HEADER_BYTES: Final = _FIELDS.size + _CRC.size


@dataclass(frozen=True, slots=True)
class _Header:
    kind: RecordType
    table_bytes: int
    payload_bytes: int
    table_crc: int
    data_crc: int


class _Stage(Enum):
    """What the buffer is to be filled with next."""

    PREAMBLE = auto()
    HEADER = auto()
    PAYLOAD = auto()
    REFUSED = auto()


def payload_max(kinds: Iterable[RecordType]) -> int:
    """Bytes of the largest payload that records of these types may have."""
    return max(LIMITS[kind].table_max + LIMITS[kind].data_max for kind in kinds)


class RecordReader:
    """Fill `buffer` wholly, call `filled`, and again; it returns each record as it is there.

    The two buffers are made once.  After an error, everything is refused.
    """

    def __init__(self, kinds: frozenset[RecordType]) -> None:
        self._kinds = kinds
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._payload = memoryview(bytearray(payload_max(kinds)))
        self._stage = _Stage.PREAMBLE
        self._header: _Header | None = None
        self._has_checksums = True
        self.number = 0  #: of the record that is being read

    @classmethod
    def after_begin(cls, kinds: frozenset[RecordType], begin: Begin) -> Self:
        """One that goes on where another one has read BEGIN, and nothing else."""
        reader = cls(kinds)
        reader._stage, reader.number = _Stage.HEADER, 1
        reader._has_checksums = begin.has_checksums
        return reader

    @property
    def buffer(self) -> memoryview:
        """Where the next bytes go: exactly so many."""
        match self._stage:
            case _Stage.PREAMBLE:
                return self._head[: _PREAMBLE.size]
            case _Stage.PAYLOAD if self._header is not None:
                return self._payload[: self._header.payload_bytes]
            case _:
                return self._head

    def filled(self) -> Record | None:
        """The buffer has been filled; None: the record goes on. Raises: StreamError."""
        stage, self._stage = self._stage, _Stage.REFUSED  # unless all goes well
        match stage:
            case _Stage.PREAMBLE:
                self._check_preamble()
            case _Stage.HEADER:
                self._header = self._read_header()
                self._stage = _Stage.PAYLOAD
                return None if self._header.payload_bytes else self.filled()
            case _Stage.PAYLOAD if self._header is not None:
                record = self._read_record(self._header)
                self._header, self.number = None, self.number + 1
                self._stage = _Stage.HEADER
                return record
            case _:
                self._refuse("stream", "nothing is read after what was wrong")
        self._stage = _Stage.HEADER
        return None

    def cut(self) -> NoReturn:
        """The stream has ended before the buffer was filled. Raises: StreamError."""
        name = "header" if self._header is None else self._header.kind.name
        self._stage = _Stage.REFUSED
        self._refuse(name, "the stream ends here")

    def _check_preamble(self) -> None:
        magic, version = _PREAMBLE.unpack_from(self._head)
        if magic != _MAGIC:
            self._refuse("preamble", "this is no migration of ballonet's")
        if version != VERSION:
            self._refuse("preamble", f"version {version}, this end speaks {VERSION}")

    def _read_header(self) -> _Header:
        code, table_bytes, number, payload_bytes, table_crc, data_crc = _FIELDS.unpack_from(
            self._head
        )
        (crc,) = _CRC.unpack_from(self._head, _FIELDS.size)
        if crc != zlib.crc32(self._head[: _FIELDS.size]):
            self._refuse("header", "its checksum is wrong")
        if code not in self._kinds:
            self._refuse(f"type {code}", "there is no such record in this direction")
        kind = RecordType(code)
        if number != self.number:
            self._refuse(kind.name, f"its number is {number}: a record is missing or repeated")
        limit = LIMITS[kind]
        if not limit.table_min <= table_bytes <= limit.table_max:
            self._refuse(kind.name, f"a table of {table_bytes} bytes")
        if not table_bytes <= payload_bytes <= table_bytes + limit.data_max:
            self._refuse(kind.name, f"a payload of {payload_bytes} bytes")
        return _Header(kind, table_bytes, payload_bytes, table_crc, data_crc)

    def _read_record(self, header: _Header) -> Record:
        table = self._payload[: header.table_bytes]
        data = self._payload[header.table_bytes : header.payload_bytes]
        if zlib.crc32(table) != header.table_crc:
            self._refuse(header.kind.name, "the checksum of its table is wrong")
        try:
            record = parse_record(header.kind, table, data)
        except WireError as error:
            reason = f"{error.field}: got {error.got}, {error.rule}"
            raise StreamError(header.kind.name, self.number, reason) from error
        if isinstance(record, Begin):
            self._has_checksums = record.has_checksums
        is_checked = self._has_checksums or header.kind is not RecordType.PAGES
        if header.data_crc != (zlib.crc32(data) if is_checked else 0):
            self._refuse(header.kind.name, "the checksum of its data is wrong")
        return record

    def _refuse(self, name: str, reason: str) -> NoReturn:
        raise StreamError(name, self.number, reason)


class RecordWriter:
    """Numbers records, adds their checksums, and counts what END will say."""

    def __init__(self) -> None:
        self._number = self._pages = self._hole_pages = 0
        self._has_checksums = True

    @property
    def totals(self) -> Totals:
        """Of everything packed so far."""
        return Totals(self._pages, self._hole_pages, self._number)

    def pack(self, record: Record) -> list[bytes | memoryview]:
        """The bytes of a record, in buffers; all of them have to be sent, in this order."""
        table = pack_table(record)
        data: tuple[memoryview, ...] = ()
        match record:
            case Begin():
                self._has_checksums = record.has_checksums
            case Pages():
                data = record.data
                self._pages += record.runs.total_pages
            case State() | Verify():
                data = record.data
            case Holes():
                self._hole_pages += record.runs.total_pages
            case _:
                pass
        is_checked = self._has_checksums or not isinstance(record, Pages)
        fields = _FIELDS.pack(
            record.TYPE,
            len(table),
            self._number,
            len(table) + sum(map(len, data)),
            zlib.crc32(table),
            _crc_of(data) if is_checked else 0,
        )
        head = fields + _CRC.pack(zlib.crc32(fields)) + table
        if not self._number:
            head = PREAMBLE + head
        self._number += 1
        return [head, *data]


def _crc_of(buffers: Iterable[memoryview]) -> int:
    crc = 0
    for buffer in buffers:
        crc = zlib.crc32(buffer, crc)
    return crc
