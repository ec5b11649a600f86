"""Where the file of a PC's memory is seen by its guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.errors import MapError
from ballonet.guests.pc_memory import map_pc_memory, pc_regions

GIB = 1 << 30
MIB = 1 << 20


@pytest.mark.parametrize("size", [64 * MIB, 3 * GIB, 0xE000_0000 - MIB])
def test_what_fits_below_the_devices_is_one_piece(size: int) -> None:
    (region,) = pc_regions(size)
    assert (region.gpa, region.size, region.file_offset) == (0, size, 0)


@pytest.mark.parametrize("size", [0xE000_0000, 4 * GIB, 64 * GIB])
def test_more_than_that_goes_on_behind_them(size: int) -> None:
    below, above = pc_regions(size)
    assert (below.gpa, below.size, below.file_offset) == (0, 3 * GIB, 0)
    assert (above.gpa, above.size, above.file_offset) == (4 * GIB, size - 3 * GIB, 3 * GIB)


def test_the_file_is_mapped_as_the_guest_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(MIB - 8) + b"the end.")
    memory = map_pc_memory(path, MIB)
    assert bytes(memory.view(MIB - 8, 8)) == b"the end."
    memory.close()


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(MIB))
    with pytest.raises(MapError):
        map_pc_memory(path, 2 * MIB)
