"""Layout of an image file: the memory of a guest at one moment, each page at a place of its own.

    offset            size          what
    0                 4096          header
    bitmap_offset     1 bit/page    1: the page is there; the lowest bit of a byte first
    checksums_offset  4/block       crc32 of each block of 1 MiB of pages, as it stands in the file;
                                    0 for a block without a page that is there
    pages_offset      4096/page     pages of all regions, one region after the other
    end_offset        24            END mark, written last

    header
    0     8     magic               56    16  kind of the guest, ASCII, zeros behind
    8     4     version, 1          72    64  its name, the same way
    12    4     bytes of a page     136   24  for each region: gpa, size, offset of its pages
    16    4     bytes of a block    ...       zeros
    20    4     regions, 1 to 64    4092  4   crc32 of the bytes before
    24    8*4   bitmap_offset, checksums_offset, pages_offset, end_offset

    END mark
    0     8     magic               16    4   crc32 of bitmap and checksums, with what fills them up
    8     8     pages there         20    4   crc32 of the bytes before

Little-endian.  The bitmap, the checksums and the pages each begin at a border of 4096 bytes.  A
page that is not there reads as zeros and is a hole of the file: it was a hole of the guest's
memory, as pages in the balloon are, or full of zeros.  Where a page lies depends on its number
alone, so a later pass overwrites it in place; a file without its END mark was not finished.

Checksums are of blocks, not of pages: one of each page would be a call for each page, and who finds
a damaged block can do no less than with a damaged page.  They are made once, when all passes are
over, from the file itself; until then a later pass need not keep them.

Whoever reads takes nothing from the file that can be computed: the offsets must be those that the
sizes of the regions give.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from ballonet.errors import GuestMemoryError, WireError
from ballonet.units import BALLOON_PAGE_BYTES, bytes_to_pages, pages_to_bytes

__all__ = [
    "BLOCK_PAGES",
    "END_BYTES",
    "HEADER_BYTES",
    "EndMark",
    "ImageLayout",
    "ImageRegion",
    "pack_end",
    "pack_header",
    "parse_end",
    "parse_header",
    "plan_image",
]

HEADER_BYTES: Final = 4096
BLOCK_PAGES: Final = 256
REGIONS_MAX: Final = 64
#: Guest memory of one image: as much as the biggest guest that we start ourselves.
MEMORY_BYTES_MAX: Final = 1 << 44

_MAGIC: Final = b"\x89BALLO\r\n"  # a copy as text would change it
_END_MAGIC: Final = b"BALLOEND"
_VERSION: Final = 1
_BLOCK_BYTES: Final = BLOCK_PAGES * BALLOON_PAGE_BYTES
_KIND_BYTES, _NAME_BYTES = 16, 64
_HEADER: Final = struct.Struct(f"<8s4I4Q{_KIND_BYTES}s{_NAME_BYTES}s")
_REGION: Final = struct.Struct("<3Q")
_CRC: Final = struct.Struct("<I")
_END: Final = struct.Struct("<8sQI")
END_BYTES: Final = _END.size + _CRC.size


@dataclass(frozen=True, slots=True)
class ImageRegion:
    """Guest memory in one piece, and where its pages begin. Units: bytes; all whole pages."""

    gpa: int
    size: int
    file_offset: int


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """Where everything stands in the file of one guest. Units: bytes.

    Pages have running numbers over all regions, *indexes*; with one region at 0 they are pfns.
    """

    kind: str  #: of guest, as "user-mode-linux"
    name: str  #: of the guest; may be empty
    regions: tuple[ImageRegion, ...]
    bitmap_offset: int
    checksums_offset: int
    pages_offset: int
    end_offset: int

    @property
    def pages(self) -> int:
        """Balloon pages in all regions."""
        return bytes_to_pages(self.end_offset - self.pages_offset)

    @property
    def blocks(self) -> int:
        """Blocks of pages, the last one perhaps shorter."""
        return -(-self.pages // BLOCK_PAGES)

    def index_of(self, gpa: int, length: int) -> int:
        """Index of the first page of a range of guest memory.

        Raises: GuestMemoryError, unless it is whole pages of one region.
        """
        for region in self.regions:
            start = gpa - region.gpa
            if start >= 0 and 0 < length <= region.size - start:
                if (gpa | length) % BALLOON_PAGE_BYTES:
                    break
                return bytes_to_pages(region.file_offset - self.pages_offset + start)
        raise GuestMemoryError(gpa, length)


@dataclass(frozen=True, slots=True)
class EndMark:
    """What is known when all is written."""

    pages: int  #: that are there
    tables_crc: int  #: crc32 of all bytes between header and pages


def plan_image(kind: str, name: str, regions: Sequence[tuple[int, int]]) -> ImageLayout:
    """Lay an image out for regions of guest memory, given as address and bytes.

    Raises: WireError, if no image can hold them.
    """
    total_pages = _check_regions(regions)
    bitmap_offset = HEADER_BYTES
    checksums_offset = bitmap_offset + _round_up(-(-total_pages // 8))
    blocks = -(-total_pages // BLOCK_PAGES)
    pages_offset = checksums_offset + _round_up(blocks * _CRC.size)
    placed, at = [], pages_offset
    for gpa, size in regions:
        placed.append(ImageRegion(gpa, size, at))
        at += size
    _check_text("kind", kind, _KIND_BYTES)
    _check_text("name", name, _NAME_BYTES)
    return ImageLayout(
        kind, name, tuple(placed), bitmap_offset, checksums_offset, pages_offset, end_offset=at
    )


def pack_header(layout: ImageLayout) -> bytes:
    """The first 4096 bytes of the file."""
    fixed = _HEADER.pack(
        _MAGIC,
        _VERSION,
        BALLOON_PAGE_BYTES,
        _BLOCK_BYTES,
        len(layout.regions),
        *_offsets(layout),
        layout.kind.encode("ascii"),
        layout.name.encode("ascii"),
    )
    regions = b"".join(_REGION.pack(one.gpa, one.size, one.file_offset) for one in layout.regions)
    body = (fixed + regions).ljust(HEADER_BYTES - _CRC.size, b"\0")
    return body + _CRC.pack(crc32(body))


def parse_header(raw: bytes) -> ImageLayout:
    """Read the first 4096 bytes of a file, of which nothing is believed.

    Raises: WireError.
    """
    if len(raw) < HEADER_BYTES:
        raise _wrong("header", f"{len(raw)} bytes", f"has {HEADER_BYTES} bytes")
    magic, version, page, block, count, *offsets, kind, name = _HEADER.unpack_from(raw)
    for field, got, expected in (
        ("magic", magic, _MAGIC),
        ("version", version, _VERSION),
        ("header checksum", _CRC.unpack(raw[-_CRC.size :])[0], crc32(raw[: -_CRC.size])),
        ("bytes of a page", page, BALLOON_PAGE_BYTES),
        ("bytes of a block", block, _BLOCK_BYTES),
    ):
        if got != expected:
            raise _wrong(field, got, f"must be {expected!r}")
    if not 1 <= count <= REGIONS_MAX:
        raise _wrong("regions", count, f"must be 1 to {REGIONS_MAX}")
    rows = [
        _REGION.unpack_from(raw, _HEADER.size + number * _REGION.size) for number in range(count)
    ]
    layout = plan_image(
        _text("kind", kind), _text("name", name), [(gpa, size) for gpa, size, _ in rows]
    )
    if tuple(offsets) != _offsets(layout):
        raise _wrong("offsets", offsets, f"must be {_offsets(layout)} for these regions")
    for (_, _, got), region in zip(rows, layout.regions, strict=True):
        if got != region.file_offset:
            raise _wrong("offset of a region", got, f"must be {region.file_offset}")
    return layout


def pack_end(end: EndMark) -> bytes:
    """The last bytes of the file."""
    body = _END.pack(_END_MAGIC, end.pages, end.tables_crc)
    return body + _CRC.pack(crc32(body))


def parse_end(raw: bytes, layout: ImageLayout) -> EndMark:
    """Read the END mark. Raises: WireError, if there is none or it cannot be right."""
    body, crc = raw[: _END.size], raw[_END.size :]
    if len(raw) != END_BYTES or not body.startswith(_END_MAGIC):
        raise _wrong(
            "END mark", raw.hex() or "nothing", "must be the end of an image that is whole"
        )
    if crc != _CRC.pack(crc32(body)):
        raise _wrong("END mark", raw.hex(), "must have the right checksum")
    _, pages, tables_crc = _END.unpack(body)
    if pages > layout.pages:
        raise _wrong("pages", pages, f"must be at most {layout.pages}")
    return EndMark(pages, tables_crc)


def _offsets(layout: ImageLayout) -> tuple[int, int, int, int]:
    return layout.bitmap_offset, layout.checksums_offset, layout.pages_offset, layout.end_offset


def _check_regions(regions: Sequence[tuple[int, int]]) -> int:
    """Pages of all regions. Raises: WireError."""
    if not 1 <= len(regions) <= REGIONS_MAX:
        raise _wrong("regions", len(regions), f"must be 1 to {REGIONS_MAX}")
    end = total = 0
    for gpa, size in regions:
        if (gpa | size) % BALLOON_PAGE_BYTES or not size:
            raise _wrong("region", f"{gpa:#x} + {size:#x}", "must be whole pages, one at least")
        if gpa < end:
            raise _wrong("region", f"{gpa:#x}", f"must begin at {end:#x} or above")
        end = gpa + size
        total += size
    if end > 1 << 64 or total > MEMORY_BYTES_MAX:
        raise _wrong("guest memory", total, f"must be at most {MEMORY_BYTES_MAX} bytes")
    return bytes_to_pages(total)


def _round_up(size: int) -> int:
    return pages_to_bytes(-(-size // BALLOON_PAGE_BYTES))


def _text(field: str, raw: bytes) -> str:
    """Raises: WireError."""
    try:
        return raw.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise _wrong(field, raw.hex(), "must be ASCII") from None


def _check_text(field: str, text: str, most: int) -> None:
    """What goes to a terminal later moves no cursor. Raises: WireError."""
    if len(text) > most or not text.isascii() or not text.isprintable():
        raise _wrong(field, ascii(text), f"must be at most {most} printable ASCII characters")


def _wrong(field: str, got: object, rule: str) -> WireError:
    return WireError(field, got, rule, "the layout of image files")
