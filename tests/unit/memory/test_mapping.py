"""Guest memory mapped: a changed table is taken whole or not at all, and nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.guest_memory import FILE_NAME, PAGE_BYTES, GuestRam, RamRegion
from tests.support.host_memory import mapping_modes

from ballonet.errors import GuestMemoryError, MapError, SessionError
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.regions import REGIONS_MAX, Region

SIZE = 16 * PAGE_BYTES
UVA = 0x7000_0000


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    """Two regions in one file; the front-end has mapped them in the other order."""
    low = RamRegion(0, SIZE, UVA + 4 * SIZE)
    high = RamRegion(4 * SIZE, 2 * SIZE, UVA, file_offset=SIZE)
    with GuestRam([low, high]) as made:
        yield made


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    made = GuestMemory()
    yield made
    made.close()


def told(ram: GuestRam) -> list[Region]:
    """The regions as a front-end tells them."""
    return [Region(one.gpa, one.size, one.uva, one.file_offset) for one in ram.regions]


def mapped() -> int:
    """Mappings of guest memory in this process, less the peer's own."""
    return len(mapping_modes(FILE_NAME)) - 1


def open_fds() -> int:
    """Descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def replace(memory: GuestMemory, ram: GuestRam, regions: list[Region]) -> None:
    memory.replace(regions, [ram.fd(ram.regions[0])] * len(regions))


def test_each_address_leads_to_its_own_byte(memory: GuestMemory, ram: GuestRam) -> None:
    replace(memory, ram, told(ram))
    for gpa in (0, SIZE - 1, 4 * SIZE, 6 * SIZE - 1):
        ram.write(gpa, b"!")
        assert bytes(memory.view(gpa, 1)) == b"!"
        assert bytes(memory.view_uva(ram.uva(gpa), 1)) == b"!"
    assert memory.total_bytes == 3 * SIZE
    assert mapped() == 2


@pytest.mark.parametrize(
    ("gpa", "length"), [(SIZE - 1, 2), (SIZE, 1), (4 * SIZE - 1, 2), (0, 5 * SIZE), (1 << 63, 1)]
)
def test_a_range_that_is_not_wholly_in_one_region_is_refused(
    memory: GuestMemory, ram: GuestRam, gpa: int, length: int
) -> None:
    replace(memory, ram, told(ram))
    with pytest.raises(GuestMemoryError):
        memory.view(gpa, length)


@pytest.mark.parametrize("length", [SIZE + 1, 2 * SIZE])
def test_a_ring_longer_than_its_own_region_is_refused(
    memory: GuestMemory, ram: GuestRam, length: int
) -> None:
    replace(memory, ram, told(ram))
    with pytest.raises(GuestMemoryError):
        memory.view_uva(UVA + 4 * SIZE, length)


def test_a_ring_as_long_as_its_region_is_there(memory: GuestMemory, ram: GuestRam) -> None:
    replace(memory, ram, told(ram))
    assert len(memory.view_uva(UVA, 2 * SIZE)) == 2 * SIZE


def test_a_table_that_cannot_be_is_refused_before_anything_is_mapped(
    memory: GuestMemory, ram: GuestRam, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(memory, ram, told(ram)[:1])
    dups: list[int] = []
    monkeypatch.setattr(os, "dup", dups.append)
    with pytest.raises(SessionError, match="overlap"):
        replace(memory, ram, [told(ram)[0]] * 2)
    with pytest.raises(SessionError, match="overlap"):
        memory.add(told(ram)[0], ram.fd(ram.regions[0]))
    assert dups == []
    assert (memory.total_bytes, mapped()) == (SIZE, 1)


def test_one_region_too_many_is_refused_and_the_others_stay(
    memory: GuestMemory, ram: GuestRam
) -> None:
    regions = [Region(2 * i * SIZE, PAGE_BYTES, 2 * i * SIZE, 0) for i in range(REGIONS_MAX)]
    replace(memory, ram, regions)
    with pytest.raises(SessionError, match="at most"):
        memory.add(Region(1 << 40, PAGE_BYTES, 1 << 40, 0), ram.fd(ram.regions[0]))
    assert mapped() == REGIONS_MAX


def test_of_a_table_that_fails_half_way_nothing_stays(memory: GuestMemory, ram: GuestRam) -> None:
    replace(memory, ram, told(ram)[:1])
    fds = open_fds()
    first, second = told(ram)
    beyond = Region(second.gpa, second.size, second.uva, 1 << 30)
    with pytest.raises(MapError, match="the file has"):
        replace(memory, ram, [first, beyond])
    assert [one.gpa for one in memory.table.regions] == [0]
    assert (mapped(), open_fds()) == (1, fds)


def test_a_region_is_removed_by_its_addresses_and_its_size(
    memory: GuestMemory, ram: GuestRam
) -> None:
    replace(memory, ram, told(ram))
    low, high = told(ram)
    for wrong in (
        Region(low.gpa, low.size, high.uva, 0),
        Region(low.gpa, low.size - 1, low.uva, 0),
        Region(low.gpa + 1, low.size, low.uva, 0),
    ):
        with pytest.raises(SessionError, match="no region"):
            memory.remove(wrong)
    memory.remove(low)
    assert [one.gpa for one in memory.table.regions] == [high.gpa]
    assert mapped() == 1


def test_no_ring_is_put_into_a_file_that_was_cut_short(memory: GuestMemory, ram: GuestRam) -> None:
    replace(memory, ram, told(ram))
    ram.truncate(ram.regions[1], 2 * SIZE)
    with pytest.raises(MapError, match="0x40000: its file was cut short"):
        memory.check_files()
    with pytest.raises(GuestMemoryError):
        memory.view_uva(UVA, 8)


def test_all_is_given_back_at_the_end(ram: GuestRam) -> None:
    fds = open_fds()
    memory = GuestMemory()
    replace(memory, ram, told(ram))
    memory.close()
    assert (mapped(), memory.total_bytes, open_fds()) == (0, 0, fds)
