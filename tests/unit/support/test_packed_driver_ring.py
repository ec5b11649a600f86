"""The test peer's own packed ring: known bytes and known rules, so that it can be trusted."""

from collections.abc import Iterator

import pytest
from tests.support.driver_ring import F_INDIRECT, F_NEXT, F_WRITE, Buffer, Used
from tests.support.guest_memory import PAGE_BYTES, GuestRam, RamRegion
from tests.support.packed_driver_ring import (
    EVENT_DESC,
    EVENT_DISABLE,
    EVENT_ENABLE,
    F_AVAIL,
    F_USED,
    PackedDriverRing,
    PackedLayout,
    Place,
)

BASE = 0x10_0000
WRAP = 1 << 15


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with GuestRam([RamRegion(BASE, 16 * PAGE_BYTES, uva=0x7F00_0000_0000)]) as memory:
        yield memory


@pytest.fixture
def ring(ram: GuestRam) -> Iterator[PackedDriverRing]:
    made = PackedDriverRing(ram, BASE, 3)
    yield made
    made.close()


def device_asks(ram: GuestRam, ring: PackedDriverRing, flags: int, place: int = 0) -> None:
    ram.write(ring.layout.used, place.to_bytes(2, "little") + flags.to_bytes(2, "little"))


@pytest.mark.parametrize(("gpa", "size"), [(8, 4), (16, 0), (16, 32769)])
def test_a_ring_that_cannot_be_is_refused(gpa: int, size: int) -> None:
    with pytest.raises(ValueError, match="no ring"):
        PackedLayout.at(gpa, size)


def test_a_list_is_written_byte_for_byte_as_the_specification_says(
    ram: GuestRam, ring: PackedDriverRing
) -> None:
    buffer_id = ring.add([Buffer(0x1122, 4), Buffer(0x3344, 8, is_writable=True)])
    assert buffer_id == 2
    assert ram.read(BASE + 14, 2).hex() == "0000"  # not shown yet
    assert ring.publish()
    assert ram.read(BASE, 32).hex() == (
        "2211000000000000040000000200810044330000000000000800000002008200"
    )


def test_after_the_end_of_the_ring_the_bits_change_places(ring: PackedDriverRing) -> None:
    for slot in range(3):
        buffer_id = ring.add([Buffer(BASE, 1)])
        ring.publish()
        ring.write_descriptor(slot, 0, 7, buffer_id, F_AVAIL | F_USED)
        assert ring.collect() == [Used(buffer_id, 7)]
    assert ring.base == 0
    buffer_id = ring.add([Buffer(BASE, 1)])
    ring.publish()
    assert ring.read_descriptor(0)[3] == F_USED
    assert ring.collect() == []
    ring.write_descriptor(0, 0, 0, buffer_id, 0)
    assert ring.collect() == [Used(buffer_id, 0)]
    assert ring.base == 0x0001_0001


def test_an_indirect_chain_takes_one_descriptor_and_a_table_without_next(
    ram: GuestRam, ring: PackedDriverRing
) -> None:
    table = BASE + PAGE_BYTES
    buffers = [Buffer(0x1000, 1), Buffer(0x2000, 2, is_writable=True)]
    buffer_id = ring.add(buffers, indirect_at=table)
    ring.publish()
    assert ring.read_descriptor(0) == (table, 32, buffer_id, F_INDIRECT | F_AVAIL)
    assert ram.read(table + 14, 2).hex() == "0000"
    assert ram.read(table + 30, 2) == F_WRITE.to_bytes(2, "little")
    assert ring.free_descriptors == 2


def test_a_used_list_gives_all_its_slots_back(ring: PackedDriverRing) -> None:
    first = ring.add([Buffer(BASE, 1), Buffer(BASE, 1)])
    ring.publish()
    assert ring.read_descriptor(0)[3] == F_NEXT | F_AVAIL
    assert (ring.free_descriptors, ring.in_flight, ring.used_idx) == (1, {first}, 0)
    ring.write_descriptor(0, 0, 0, first, F_AVAIL | F_USED)
    assert (ring.used_idx, ring.avail_idx) == (1, 1)
    ring.collect()
    assert (ring.free_descriptors, ring.in_flight, ring.base) == (3, set(), 0x8002_8002)


def test_a_chain_returned_unasked_is_noticed(ring: PackedDriverRing) -> None:
    ring.write_descriptor(0, 0, 0, 1, F_AVAIL | F_USED)
    with pytest.raises(AssertionError, match="was not in flight"):
        ring.collect()


@pytest.mark.parametrize(
    ("flags", "place", "kicked"),
    [
        (EVENT_ENABLE, 0, True),
        (EVENT_DISABLE, 0, False),
        (EVENT_DESC, WRAP | 1, False),  # passed already
        (EVENT_DESC, WRAP | 2, True),
        (EVENT_DESC, 0, True),
        (EVENT_DESC, 1, False),  # comes next
        (EVENT_DESC, WRAP | 0, False),
    ],
)
def test_a_kick_is_wanted_when_the_place_is_passed(
    ram: GuestRam, flags: int, place: int, *, kicked: bool
) -> None:
    ring = PackedDriverRing(ram, BASE, 3, event_idx=True, start=Place(2, wrap=True))
    device_asks(ram, ring, flags, place)
    ring.add([Buffer(BASE, 1), Buffer(BASE, 1)])  # slot 2, and slot 0 of the next lap
    assert ring.publish() == kicked
    ring.close()


def test_calls_are_asked_for_again_at_each_collection(ram: GuestRam) -> None:
    ring = PackedDriverRing(ram, BASE, 3, event_idx=True)
    buffer_id = ring.add([Buffer(BASE, 1)])
    ring.publish()
    ring.write_descriptor(0, 0, 0, buffer_id, F_AVAIL | F_USED)
    ring.collect()
    driver_event = ram.read(ring.layout.avail, 4)
    ring.close()
    assert driver_event.hex() == "01800200"
