"""Marks in a guest's memory, counted in its file without filling the holes."""

from __future__ import annotations

from pathlib import Path

from ballonet.lab.memory_marks import MARK, count_marked_pages


def test_pages_that_begin_with_the_mark_are_counted_and_holes_stay(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    with path.open("wb") as file:
        file.truncate(40 << 20)
        for page in (0, 3, 5000, (40 << 8) - 1):
            file.seek(page << 12)
            file.write(MARK * 256)
        file.seek((7 << 12) + 16)  # not where a page begins
        file.write(MARK)
    before = path.stat().st_blocks
    assert count_marked_pages(path) == 4
    assert path.stat().st_blocks == before


def test_a_file_of_odd_length_is_read_up_to_its_last_whole_page(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(MARK * 257)
    assert count_marked_pages(path) == 1
