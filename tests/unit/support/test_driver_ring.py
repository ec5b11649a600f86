"""The test peer's own ring: known addresses and known rules, so that it can be trusted."""

from collections.abc import Iterator

import pytest
from tests.support.driver_ring import (
    F_INDIRECT,
    F_NEXT,
    F_WRITE,
    Buffer,
    DriverRing,
    RingLayout,
    Used,
    needs_event,
)
from tests.support.guest_memory import PAGE_BYTES, GuestRam, RamRegion

BASE = 0x10_0000


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with GuestRam([RamRegion(BASE, 16 * PAGE_BYTES, uva=0x7F00_0000_0000)]) as memory:
        yield memory


@pytest.fixture
def ring(ram: GuestRam) -> Iterator[DriverRing]:
    made = DriverRing(ram, BASE, 4)
    yield made
    made.close()


def device_uses(ram: GuestRam, ring: DriverRing, entries: list[Used]) -> None:
    at = ring.layout.used
    for place, (head, length) in enumerate(entries):
        ram.write(at + 4 + 8 * place, head.to_bytes(4, "little") + length.to_bytes(4, "little"))
    ram.write(at + 2, len(entries).to_bytes(2, "little"))


@pytest.mark.parametrize(
    ("size", "avail", "used", "end"),
    [
        (1, 16, 24, 38),  # 8 bytes of available ring end on a multiple of 4
        (4, 64, 80, 118),  # 14 bytes of available ring leave a gap of 2
        (128, 2048, 2312, 3342),
        (256, 4096, 4616, 6670),
        (32768, 524288, 589832, 851982),
    ],
)
def test_the_three_parts_lie_where_the_specification_counts_them(
    size: int, avail: int, used: int, end: int
) -> None:
    assert RingLayout.at(BASE, size) == RingLayout(BASE, BASE + avail, BASE + used, BASE + end)


@pytest.mark.parametrize(("gpa", "size"), [(8, 4), (16, 3), (16, 0)])
def test_a_ring_that_cannot_be_is_refused(gpa: int, size: int) -> None:
    with pytest.raises(ValueError, match="no ring"):
        RingLayout.at(gpa, size)


def test_a_chain_is_written_byte_for_byte_as_the_specification_says(
    ram: GuestRam, ring: DriverRing
) -> None:
    ring.add([Buffer(0x1122, 4), Buffer(0x3344, 8, is_writable=True)])
    assert ring.publish()
    assert ram.read(BASE, 32).hex() == (
        "2211000000000000040000000100010044330000000000000800000002000000"
    )
    assert ram.read(ring.layout.avail, 6).hex() == "000001000000"


def test_an_indirect_chain_takes_one_descriptor_and_a_table(
    ram: GuestRam, ring: DriverRing
) -> None:
    table = BASE + PAGE_BYTES
    head = ring.add([Buffer(0x1000, 1), Buffer(0x2000, 2, is_writable=True)], indirect_at=table)
    assert ring.read_descriptor(head) == (table, 32, F_INDIRECT, 0)
    assert ram.read(table + 12, 4).hex() == F_NEXT.to_bytes(2, "little").hex() + "0100"
    assert ram.read(table + 28, 4).hex() == F_WRITE.to_bytes(2, "little").hex() + "0000"
    assert ring.free_descriptors == 3


def test_used_chains_give_their_descriptors_back_in_the_order_of_use(
    ram: GuestRam, ring: DriverRing
) -> None:
    first = ring.add([Buffer(BASE, 1), Buffer(BASE, 1)])
    second = ring.add([Buffer(BASE, 1)])
    ring.publish()
    assert ring.free_descriptors == 1
    device_uses(ram, ring, [Used(second, 7), Used(first, 0)])
    assert ring.collect() == [Used(second, 7), Used(first, 0)]
    assert (ring.free_descriptors, ring.in_flight) == (4, set())


def test_a_chain_returned_unasked_is_noticed(ram: GuestRam, ring: DriverRing) -> None:
    device_uses(ram, ring, [Used(3, 0)])
    with pytest.raises(AssertionError, match="was not in flight"):
        ring.collect()


def test_no_kick_is_wanted_while_the_device_says_so(ram: GuestRam, ring: DriverRing) -> None:
    ram.write(ring.layout.used, b"\1\0")
    ring.add([Buffer(BASE, 1)])
    assert not ring.publish()


@pytest.mark.parametrize(
    ("event", "new", "old", "wanted"),
    [
        (0, 1, 0, True),
        (1, 1, 0, False),
        (5, 6, 3, True),
        (2, 6, 3, False),
        (0xFFFF, 0, 0xFFFF, True),
        (0xFFFE, 1, 0xFFFF, False),
    ],
)
def test_an_event_is_wanted_only_when_its_index_is_passed(
    event: int, new: int, old: int, wanted: bool
) -> None:
    assert needs_event(event, new, old) is wanted


def test_with_event_idx_the_first_chain_is_kicked_and_later_ones_not_before_the_event(
    ram: GuestRam,
) -> None:
    ring = DriverRing(ram, BASE, 4, event_idx=True)
    kicks = []
    for _ in range(3):
        ring.add([Buffer(BASE, 1)])
        kicks.append(ring.publish())
    ring.close()
    assert kicks == [True, False, False]


def test_calls_are_asked_for_again_at_each_collection(ram: GuestRam) -> None:
    ring = DriverRing(ram, BASE, 4, event_idx=True)
    head = ring.add([Buffer(BASE, 1)])
    ring.publish()
    device_uses(ram, ring, [Used(head, 0)])
    ring.collect()
    used_event = ram.read(ring.layout.avail + 4 + 2 * 4, 2)
    ring.close()
    assert used_event == b"\1\0"


def test_filled_pages_show_a_single_lost_byte(ram: GuestRam) -> None:
    first = BASE // PAGE_BYTES
    ram.fill(first, 16)
    assert not ram.changed_pages(first, 16)
    flipped = ram.read(BASE + 5 * PAGE_BYTES + 77, 1)[0] ^ 1
    ram.write(BASE + 5 * PAGE_BYTES + 77, bytes([flipped]))
    assert ram.changed_pages(first, 16) == {first + 5}


def test_filled_pages_count_as_blocks_and_looking_at_holes_does_not() -> None:
    with GuestRam([RamRegion(0, 8 * PAGE_BYTES, uva=0)]) as ram:
        ram.fill(2, 3)
        assert ram.zero_pages(0, 8) == {0, 1, 5, 6, 7}
        assert ram.blocks() == 3 * PAGE_BYTES
