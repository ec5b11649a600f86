"""Image files, written and read by the table in their documentation, and by no code of the package.

Part of the test peer, which shares no code with the package under test.  Units: bytes.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAGE: Final = 4096
BLOCK: Final = 1 << 20
_HEADER: Final = struct.Struct("<8sIIIIQQQQ16s64s")
MAGIC: Final = b"\x89BALLO\r\n"


@dataclass(frozen=True, slots=True)
class Image:
    """What stands in a file; one region at 0."""

    memory_bytes: int
    pages: dict[int, bytes]  #: by number; the others are zeros

    def page(self, pfn: int) -> bytes:
        """What the guest had there."""
        return self.pages.get(pfn, bytes(PAGE))


def header(
    regions: list[tuple[int, int, int]], offsets: tuple[int, int, int, int], **other: object
) -> bytes:
    """A header whose checksum is right, whatever else is wrong with it."""
    fields: dict[str, object] = {
        "magic": MAGIC,
        "version": 1,
        "page": PAGE,
        "block": BLOCK,
        "count": len(regions),
        "offsets": offsets,
        "kind": b"kind",
        "name": b"name",
    }
    fields |= other
    magic, version, page, block, count, _, kind, name = fields.values()
    raw = _HEADER.pack(magic, version, page, block, count, *offsets, kind, name)
    raw += b"".join(struct.pack("<QQQ", *(one & (1 << 64) - 1 for one in row)) for row in regions)
    raw = raw.ljust(PAGE - 4, b"\0")
    return raw + struct.pack("<I", zlib.crc32(raw))


def end_mark(pages: int, tables_crc: int) -> bytes:
    """The last bytes of a file."""
    raw = b"BALLOEND" + struct.pack("<QI", pages, tables_crc)
    return raw + struct.pack("<I", zlib.crc32(raw))


def read_image(path: Path) -> Image:
    """All of an image of one region at 0, every rule of the table checked."""
    with path.open("rb", buffering=0) as file:

        def get(offset: int, size: int) -> bytes:
            return os.pread(file.fileno(), size, offset)

        raw = get(0, PAGE)
        magic, version, page, block, count, bitmap, sums, first, end, _, _ = _HEADER.unpack_from(
            raw
        )
        assert (magic, version, page, block, count) == (MAGIC, 1, PAGE, BLOCK, 1)
        assert struct.unpack_from("<I", raw, PAGE - 4)[0] == zlib.crc32(raw[: PAGE - 4])
        gpa, size, at = struct.unpack_from("<QQQ", raw, _HEADER.size)
        assert (gpa, at) == (0, first)
        assert end == first + size
        tables = get(bitmap, first - bitmap)
        bits = [8 * at + bit for at in range(-(-size // PAGE // 8)) for bit in range(8)]
        there = [pfn for pfn in bits if tables[pfn // 8] >> pfn % 8 & 1]
        pages = {pfn: get(first + pfn * PAGE, PAGE) for pfn in there}
        full = {pfn * PAGE // BLOCK for pfn in there}
        for number in range(-(-size // BLOCK)):
            start = first + number * BLOCK
            expected = zlib.crc32(get(start, min(BLOCK, end - start))) if number in full else 0
            assert struct.unpack_from("<I", tables, sums - bitmap + number * 4)[0] == expected
        assert get(end, BLOCK) == end_mark(len(pages), zlib.crc32(tables))
    return Image(size, pages)
