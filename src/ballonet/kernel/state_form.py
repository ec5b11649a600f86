"""The form in which a part of a guest's state is written down: a header, then plain arrays.

    offset  bytes
    0       8      "ballonet"
    8       4      version of this form and of what is written in it
    12      4      CRC-32 of everything that follows
    16      4      bytes of the header
    20      ...    header, JSON: {"part", "fields": {...}, "arrays": [[name, dtype, items], ...]}
    ...     ...    the arrays one after another, without gaps

Numbers are little-endian.  Nothing is believed: sizes are checked against the bytes that are there
before anything is made of them, so reading takes a small multiple of their memory.
Not here: what the fields and arrays of a part mean (state.py of kernel and driver).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from struct import Struct
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ballonet.errors import GuestError, StreamError

__all__ = ["StatePart", "StateReader", "pack_state", "read_state"]

VERSION: Final = 1
_MAGIC: Final = b"ballonet"
_HEAD: Final = Struct("<8sIII")
_CRC_AT: Final = 16  # what the CRC covers begins here
_HEADER_BYTES_MAX: Final = 8 << 20
#: No number in a header is larger, but for those that are checked one by one.
_NUMBER_MAX: Final = (1 << 62) - 1

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class StatePart:
    """What a part of the state is called, and the type of each array in it, in order."""

    name: str
    arrays: Mapping[str, str]


def pack_state(
    part: StatePart, values: Mapping[str, object], arrays: Mapping[str, NDArray[Any]]
) -> bytes:
    """Write a part down. Raises: GuestError, if there is more than its reader would accept."""
    bodies = [
        np.ascontiguousarray(arrays[name], np.dtype(dtype)) for name, dtype in part.arrays.items()
    ]
    header = json.dumps(
        {
            "part": part.name,
            "fields": values,
            "arrays": [
                [name, dtype, body.size]
                for (name, dtype), body in zip(part.arrays.items(), bodies, strict=True)
            ],
        },
        separators=(",", ":"),
    ).encode()
    if len(header) > _HEADER_BYTES_MAX:
        raise GuestError(f"the state of the {part.name} has a header of {len(header)} bytes")
    body = b"".join([header, *(one.tobytes() for one in bodies)])
    crc = zlib.crc32(body, zlib.crc32(len(header).to_bytes(4, "little")))
    return _HEAD.pack(_MAGIC, VERSION, crc, len(header)) + body


def read_state(part: StatePart, raw: bytes) -> StateReader:
    """Read a part. Raises: StreamError, if it cannot have been written by `pack_state`."""
    refuse = StateReader(part.name, {}, {}).refuse
    if len(raw) < _HEAD.size:
        raise refuse(f"{len(raw)} bytes are too few")
    magic, version, crc, header_bytes = _HEAD.unpack_from(raw)
    if magic != _MAGIC or version != VERSION:
        raise refuse(f"begins with {magic!r} and version {version}, not {_MAGIC!r} and {VERSION}")
    if header_bytes > min(_HEADER_BYTES_MAX, len(raw) - _HEAD.size):
        raise refuse(f"a header of {header_bytes} bytes is too long")
    if zlib.crc32(memoryview(raw)[_CRC_AT:]) != crc:
        raise refuse("its checksum is wrong")
    body_at = _HEAD.size + header_bytes
    try:
        header = json.loads(raw[_HEAD.size : body_at])
    except (ValueError, RecursionError) as error:
        raise refuse("its header is no JSON") from error
    if not isinstance(header, dict) or header.get("part") != part.name:
        raise refuse("its header is another part's")
    values = header.get("fields")
    if not isinstance(values, dict):
        raise refuse("its header has no fields")
    return StateReader(part.name, values, _arrays(part, header.get("arrays"), raw, body_at))


def _arrays(part: StatePart, listed: object, raw: bytes, at: int) -> dict[str, NDArray[Any]]:
    """The arrays as they stand in the bytes, not copied. Raises: StreamError."""
    refuse = StateReader(part.name, {}, {}).refuse
    if not isinstance(listed, list) or len(listed) != len(part.arrays):
        raise refuse(f"it has not the {len(part.arrays)} arrays of such a state")
    found = {}
    for entry, (name, dtype) in zip(listed, part.arrays.items(), strict=True):
        if not isinstance(entry, list) or len(entry) != 3 or entry[:2] != [name, dtype]:
            raise refuse(f"array {name} of {dtype} is not where it belongs")
        items, item_bytes = entry[2], np.dtype(dtype).itemsize
        if type(items) is not int or not 0 <= items <= (len(raw) - at) // item_bytes:
            raise refuse(f"array {name} has {str(items)[:40]} items, more than there are bytes")
        found[name] = np.frombuffer(raw, dtype, items, at)
        at += items * item_bytes
    if at != len(raw):
        raise refuse(f"{len(raw) - at} bytes follow the last array")
    return found


@dataclass(frozen=True, slots=True)
class StateReader:
    """What was read of a part, and ways to look at it that believe nothing."""

    part: str
    values: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def refuse(self, why: str) -> StreamError:
        """What to raise."""
        return StreamError(f"state of the {self.part}", 0, why)

    def record(self, kind: type[R], name: str) -> R:
        """The field of this name as a dataclass. Raises: StreamError."""
        return self.as_record(kind, name, self.values.get(name))

    def as_record(self, kind: type[R], name: str, value: object) -> R:
        """A value as a dataclass of numbers, truth values and optional numbers.

        Raises: StreamError, if a field is missing, too many, of another type, or out of bounds.
        """
        types = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
        if not isinstance(value, dict) or value.keys() != types.keys():
            raise self.refuse(f"{name} has not the fields {', '.join(types)}")
        for field, wanted in types.items():
            self._check(f"{name}.{field}", value[field], wanted)
        return kind(**value)

    def table(self, name: str, *columns: type) -> list[list[Any]]:
        """The field of this name as rows, each with values of these types. Raises: StreamError."""
        rows = self.values.get(name)
        if not isinstance(rows, list):
            raise self.refuse(f"{name} is no list")
        for row in rows:
            if not isinstance(row, list) or len(row) != len(columns):
                raise self.refuse(f"{name} has a row without {len(columns)} values")
            for value, wanted in zip(row, columns, strict=True):
                if type(value) is not wanted:
                    raise self.refuse(f"{name} has {str(value)[:40]}, no {wanted.__name__}")
                if wanted is int:
                    self._check(name, value, "int")
        return rows

    def _check(self, name: str, value: object, wanted: str) -> None:
        if value is None and wanted == "int | None":
            return
        is_right = (
            type(value) is bool
            if wanted == "bool"
            else type(value) is int and 0 <= value <= _NUMBER_MAX
        )
        if not is_right:
            raise self.refuse(f"{name} is {str(value)[:40]}, no {wanted} in bounds")
