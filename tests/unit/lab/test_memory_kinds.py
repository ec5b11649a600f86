"""Pieces of memory whose figures follow what is done to them."""

from __future__ import annotations

import mmap

import pytest

from ballonet.errors import SystemCallError
from ballonet.lab.memory_kinds import KINDS, SIZE_BYTES, Kind, made


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_a_piece_is_there_is_freed_and_comes_back(kind: Kind) -> None:
    try:
        with made(kind) as piece:
            assert piece.held_bytes() == piece.mapped_bytes() == SIZE_BYTES
            assert piece.is_as_written(SIZE_BYTES - 1)
            piece.free_all()
            assert piece.held_bytes() == piece.mapped_bytes() == 0
            assert piece.is_zero(SIZE_BYTES - 1)
            piece.fill()
            assert piece.held_bytes() == SIZE_BYTES
            assert bool(piece.block_bytes()) == (piece.fd is not None)
    except SystemCallError as error:
        pytest.skip(str(error))


def test_what_is_not_mapped_any_more_may_still_be_held() -> None:
    with made(KINDS[1]) as piece:
        piece.mapping.madvise(mmap.MADV_DONTNEED)
        assert (piece.held_bytes(), piece.mapped_bytes()) == (SIZE_BYTES, 0)
