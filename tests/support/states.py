"""States of guests taken apart, changed, and put together again with the right checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
#: Changes a header and its arrays in place.
Change = Callable[[dict[str, Any], Arrays], None]

_HEAD = Struct("<8sIII")


def parts(raw: bytes) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays, free to be changed."""
    length = _HEAD.unpack_from(raw)[3]
    at = _HEAD.size + length
    header: dict[str, Any] = json.loads(raw[_HEAD.size : at])
    arrays = {}
    for name, dtype, items in header["arrays"]:
        arrays[name] = np.frombuffer(raw, dtype, items, at).copy()
        at += arrays[name].nbytes
    return header, arrays


def with_header(text: bytes, body: bytes = b"", version: int = 1) -> bytes:
    """A state with this header, whatever it is."""
    crc = zlib.crc32(text + body, zlib.crc32(len(text).to_bytes(4, "little")))
    return _HEAD.pack(b"ballonet", version, crc, len(text)) + text + body


def joined(header: object, arrays: Arrays) -> bytes:
    """The other way round."""
    body = b"".join(one.tobytes() for one in arrays.values())
    return with_header(json.dumps(header).encode(), body)


def forged(raw: bytes, change: Change) -> bytes:
    """A state after a change; a number of items that was not changed follows its array."""
    header, arrays = parts(raw)
    items = [row[2] for row in header["arrays"]]
    change(header, arrays)
    for row, before in zip(header["arrays"], items, strict=True):
        if type(row[2]) is int and row[2] == before:
            row[2] = int(arrays[row[0]].size)
    return joined(header, arrays)
