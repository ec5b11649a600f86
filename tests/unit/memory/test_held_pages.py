"""Which pages of a file hold something, found by what the kernel says of it."""

from __future__ import annotations

import os

import numpy as np

from ballonet.memory.discard import punch_hole
from ballonet.memory.held_pages import held_pages

PAGE, PAGES = 4096, 512


def test_holes_are_what_was_never_filled_or_was_punched() -> None:
    fd = os.memfd_create("holes")
    try:
        os.ftruncate(fd, 64 << 30)
        assert not held_pages(fd, 16 << 20).any()
        os.ftruncate(fd, PAGES * PAGE)
        for fills in (np.r_[0, 3:8, PAGES - 2], np.arange(PAGES)):
            for page in fills.tolist():
                os.pwrite(fd, b"x", page * PAGE)
            assert np.flatnonzero(held_pages(fd, PAGES)).tolist() == fills.tolist()
        punch_hole(fd, 100 * PAGE, 7 * PAGE)
        assert np.flatnonzero(~held_pages(fd, PAGES)).tolist() == list(range(100, 107))
        assert np.flatnonzero(~held_pages(fd, 104)).tolist() == list(range(100, 104))
        assert np.flatnonzero(~held_pages(fd, 8, 100 * PAGE)).tolist() == list(range(7))
        assert os.fstat(fd).st_blocks * 512 == (PAGES - 7) * PAGE
    finally:
        os.close(fd)
