"""The layout of image files, and files that lie."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.image_files import PAGE, header

from ballonet.errors import GuestMemoryError, WireError
from ballonet.migration.image import (
    END_BYTES,
    HEADER_BYTES,
    EndMark,
    pack_end,
    pack_header,
    parse_end,
    parse_header,
    plan_image,
)

ONE = plan_image("user-mode-linux", "process 12", [(0, 4 << 20)])


@st.composite
def some_regions(draw: st.DrawFn) -> list[tuple[int, int]]:
    at, found = 0, []
    for gap, pages in draw(
        st.lists(
            st.tuples(st.integers(0, 1 << 20), st.integers(1, 1 << 24)), min_size=1, max_size=64
        )
    ):
        found.append((at + gap * PAGE, pages * PAGE))
        at += (gap + pages) * PAGE
    return found


@given(some_regions())
def test_a_header_reads_back_as_it_was_written(regions: list[tuple[int, int]]) -> None:
    layout = plan_image("kind", "", regions)
    assert parse_header(pack_header(layout)) == layout
    assert len(pack_header(layout)) == HEADER_BYTES
    assert layout.pages == sum(size for _, size in regions) // PAGE


@given(some_regions())
def test_nothing_in_a_file_overlaps(regions: list[tuple[int, int]]) -> None:
    layout = plan_image("kind", "", regions)
    assert layout.bitmap_offset == HEADER_BYTES
    assert layout.checksums_offset - layout.bitmap_offset >= -(-layout.pages // 8)
    assert layout.pages_offset - layout.checksums_offset >= layout.blocks * 4
    at = layout.pages_offset
    for region in layout.regions:
        assert region.file_offset == at
        assert at % PAGE == 0
        at += region.size
    assert layout.end_offset == at


@given(st.integers(0, HEADER_BYTES * 8 - 1))
def test_a_flipped_bit_of_the_header_is_noticed(bit: int) -> None:
    raw = bytearray(pack_header(ONE))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        parse_header(bytes(raw))


@given(st.integers(0, HEADER_BYTES - 1))
def test_a_header_that_was_cut_is_none(size: int) -> None:
    with pytest.raises(WireError):
        parse_header(pack_header(ONE)[:size])


OFFSETS = (4096, 8192, 12288, 12288 + (1 << 20))
GOOD = [(0, 1 << 20, 12288)]


def test_a_header_by_the_table_is_taken() -> None:
    assert parse_header(header(GOOD, OFFSETS)).pages == 256


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (header(GOOD, OFFSETS, version=2), "version"),
        (header(GOOD, OFFSETS, page=65536), "bytes of a page"),
        (header(GOOD, OFFSETS, block=4096), "bytes of a block"),
        (header(GOOD, OFFSETS, count=0), "regions"),
        (header(GOOD, OFFSETS, count=65), "regions"),
        (header(GOOD, OFFSETS, count=1 << 31), "regions"),
        (header(GOOD, OFFSETS, kind=b"\x1b[2J"), "kind"),
        (header(GOOD, OFFSETS, name=b"\xff"), "name"),
        (header([(0, 1 << 63, 12288)], OFFSETS), "guest memory"),
        (header([(0, (1 << 64) - PAGE, 12288)], OFFSETS), "guest memory"),
        (header([(1 << 63, 1 << 63, 12288), (0, PAGE, 0)], OFFSETS), "region"),
        (header([((1 << 64) - PAGE, 2 * PAGE, 12288)], OFFSETS), "guest memory"),
        (header([(0, 0, 12288)], OFFSETS), "region"),
        (header([(0, PAGE + 1, 12288)], OFFSETS), "region"),
        (header([(1, PAGE, 12288)], OFFSETS), "region"),
        (header([(0, PAGE, 12288), (0, PAGE, 16384)], OFFSETS), "region"),
        (header([(0, 1 << 20, 0)], OFFSETS), "offset of a region"),
        (header([(0, 1 << 20, 1 << 63)], OFFSETS), "offset of a region"),
        (header(GOOD, (4096, 8192, 12288, 1 << 63)), "offsets"),
        (header(GOOD, (4096, 4096, 12288, 12288 + (1 << 20))), "offsets"),
        (header(GOOD, (0, 8192, 12288, 12288 + (1 << 20))), "offsets"),
    ],
)
def test_a_header_that_lies_is_refused_by_its_field(raw: bytes, field: str) -> None:
    with pytest.raises(WireError) as refused:
        parse_header(raw)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "regions", [[], [(0, PAGE)] * 2, [(0, PAGE - 1)], [(i * PAGE, PAGE) for i in range(65)]]
)
def test_regions_that_no_image_can_hold_are_refused(regions: list[tuple[int, int]]) -> None:
    with pytest.raises(WireError):
        plan_image("kind", "", regions)


def test_an_index_is_of_whole_pages_of_one_region() -> None:
    layout = plan_image("kind", "", [(0, 4 * PAGE), (8 * PAGE, 2 * PAGE)])
    assert layout.index_of(0, 4 * PAGE) == 0
    assert layout.index_of(9 * PAGE, PAGE) == 5
    for gpa, length in [
        (0, 5 * PAGE),
        (4 * PAGE, PAGE),
        (7 * PAGE, 2 * PAGE),
        (9 * PAGE, 2 * PAGE),
        (0, 0),
        (0, 1),
        (1, PAGE),
        (-PAGE, PAGE),
        (1 << 64, PAGE),
        (0, -PAGE),
    ]:
        with pytest.raises(GuestMemoryError):
            layout.index_of(gpa, length)


@given(st.integers(0, ONE.pages), st.integers(0, 0xFFFF_FFFF))
def test_the_end_mark_reads_back(pages: int, crc: int) -> None:
    assert parse_end(pack_end(EndMark(pages, crc)), ONE) == EndMark(pages, crc)


@given(st.integers(0, END_BYTES * 8 - 1))
def test_a_flipped_bit_of_the_end_mark_is_noticed(bit: int) -> None:
    raw = bytearray(pack_end(EndMark(3, 4)))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        parse_end(bytes(raw), ONE)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(END_BYTES),
        pack_end(EndMark(3, 4))[:-1],
        pack_end(EndMark(3, 4)) + b"\0",
        pack_end(EndMark(ONE.pages + 1, 4)),
        pack_end(EndMark((1 << 64) - 1, 4)),
    ],
)
def test_what_is_no_end_mark_of_this_image_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        parse_end(raw, ONE)


def test_the_checksum_of_the_header_is_its_last_word() -> None:
    raw = pack_header(ONE)
    assert int.from_bytes(raw[-4:], "little") == zlib.crc32(raw[:-4])
