"""The split ring, one broken rule at a time, and the two races of notification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.support.driver_ring import F_INDIRECT, F_NEXT, F_WRITE, Buffer, DriverRing, RingLayout
from tests.support.guest_memory import GuestRam, RamRegion

from ballonet.errors import RingError
from ballonet.virtio.ring.split import SplitAreas, SplitRing, split_area_bytes

SIZE = 4
RING, DATA, TABLE = 0x1000, 0x2000, 0x3000


class Driver(DriverRing):
    """A driver that can do something in the middle of the device's work."""

    between: Callable[[], object] = staticmethod(lambda: None)


@contextmanager
def ring(
    *, event_idx: bool = False, indirect: bool = True, base: int = 0
) -> Iterator[tuple[Driver, SplitRing, GuestRam]]:
    """Both halves of one ring; the driver's `between` runs at each of the device's fences."""
    with GuestRam([RamRegion(0, 0x8000, 0)]) as ram:
        driver = Driver(ram, RING, SIZE, event_idx=event_idx)
        device = device_side(driver, ram, indirect=indirect, base=base)
        yield driver, device, ram
        device.release()
        driver.close()


def device_side(
    driver: Driver, ram: GuestRam, *, indirect: bool = True, base: int = 0
) -> SplitRing:
    """The device's half."""
    place = RingLayout.at(RING, SIZE)
    sizes = split_area_bytes(SIZE)
    areas = zip((place.desc, place.avail, place.used), sizes, strict=True)
    views = [ram.view(*area) for area in areas]

    def fence() -> None:
        driver.between()

    return SplitRing(
        SplitAreas(*views), ram, fence, base=base, event_idx=driver.event_idx, indirect=indirect
    )


@pytest.mark.parametrize(
    "descriptors",
    [
        [(DATA, 4, F_NEXT, 0)],
        [(DATA, 4, F_NEXT, 1), (DATA, 4, F_NEXT, 0)],
        [(DATA, 4, F_NEXT, SIZE)],
        [(DATA, 4, F_NEXT, 0xFFFF)],
        [(DATA, 0, 0, 0)],
        [(DATA, 4, F_WRITE | F_NEXT, 1), (DATA, 4, 0, 0)],
        [(TABLE, 0, F_INDIRECT, 0)],
        [(TABLE, 8, F_INDIRECT, 0)],
        [(TABLE, 1 << 20, F_INDIRECT, 0)],
        [(0x7FF8, 16, F_INDIRECT, 0)],
        [(TABLE, 16, F_INDIRECT | F_NEXT, 1), (DATA, 4, 0, 0)],
    ],
    ids=[
        "points to itself",
        "goes in a circle",
        "next just outside",
        "next far outside",
        "length 0",
        "readable after writable",
        "empty table",
        "half a descriptor in the table",
        "huge table",
        "table beyond memory",
        "indirect with next",
    ],
)
def test_a_chain_against_the_rules_is_found(descriptors: list[tuple[int, int, int, int]]) -> None:
    with ring() as (driver, device, ram):
        ram.write(TABLE, bytes(64))
        for i, descriptor in enumerate(descriptors):
            driver.write_descriptor(i, *descriptor)
        driver.set_avail_entry(0, 0)
        driver.set_avail_idx(1)
        with pytest.raises((RingError, LookupError)):
            device.pop()
        assert driver.used_idx == 0


def test_a_table_inside_a_table_is_found() -> None:
    with ring() as (driver, device, ram):
        inner = TABLE.to_bytes(8, "little") + bytes([16, 0, 0, 0, F_INDIRECT, 0, 0, 0])
        ram.write(TABLE, inner)
        driver.write_descriptor(0, TABLE, 16, F_INDIRECT, 0)
        driver.set_avail_idx(1)
        with pytest.raises(RingError, match="indirect"):
            device.pop()


def test_an_indirect_chain_that_was_not_negotiated_is_found() -> None:
    with ring(indirect=False) as (driver, device, _):
        driver.add([Buffer(DATA, 4)], indirect_at=TABLE)
        driver.publish()
        with pytest.raises(RingError, match="not negotiated"):
            device.pop()


@pytest.mark.parametrize("jump", [SIZE + 1, 0x7FFF, 0xFFFF])
def test_an_available_index_that_jumps_is_found(jump: int) -> None:
    with ring(base=7) as (driver, device, _):
        driver.set_avail_idx(7 + jump)
        with pytest.raises(RingError, match="jumped"):
            device.pop()


def test_a_head_outside_the_table_is_found() -> None:
    with ring() as (driver, device, _):
        driver.set_avail_entry(0, SIZE)
        driver.set_avail_idx(1)
        with pytest.raises(RingError, match="head 4"):
            device.pop()


def test_more_chains_than_the_ring_holds_are_never_outstanding() -> None:
    with ring() as (driver, device, _):
        for i in range(SIZE):
            driver.write_descriptor(i, DATA, 4, 0, 0)
            driver.set_avail_entry(i, i)
        driver.set_avail_idx(SIZE)
        for _ in range(SIZE):
            assert device.pop()
        driver.set_avail_idx(SIZE + 1)
        with pytest.raises(RingError, match="outstanding"):
            device.pop()


def test_a_descriptor_changed_after_it_was_read_changes_nothing() -> None:
    with ring() as (driver, device, _):
        driver.add([Buffer(DATA, 4)])
        driver.publish()
        chain = device.pop()
        driver.write_descriptor(0, 0xDEAD0000, 1 << 31, F_NEXT, 9)
        assert chain is not None
        assert (chain.readable, chain.writable) == (((DATA, 4),), ())


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_chain_added_while_kicks_are_switched_on_is_not_lost(*, event_idx: bool) -> None:
    with ring(event_idx=event_idx) as (driver, device, _):
        device.disable_kicks()
        driver.add([Buffer(DATA, 4)])
        assert driver.publish() == event_idx  # the first entry passes event 0
        assert device.pop()
        assert device.pop() is None
        late: list[int] = []

        def race() -> None:
            if not late:
                late.append(driver.add([Buffer(DATA, 4)]))
                driver.publish()

        driver.between = race
        assert device.enable_kicks()
        assert device.pop()


@pytest.mark.parametrize("event_idx", [False, True])
def test_calls_come_when_wanted_and_only_then(*, event_idx: bool) -> None:
    with ring(event_idx=event_idx) as (driver, device, _):
        for wanted in (True, False, True, False, True):
            driver.want_calls(wanted)
            driver.add([Buffer(DATA, 4)])
            driver.publish()
            chain = device.pop()
            assert chain is not None
            device.push(chain.head, 0)
            assert device.publish() == wanted
            driver.collect()


def test_indexes_go_round_at_65536() -> None:
    with ring(event_idx=True, base=0) as (driver, device, _):
        driver.want_calls(True)
        for _ in range(0x10000 + 3):
            driver.add([Buffer(DATA, 4)])
            driver.publish()
            chain = device.pop()
            assert chain is not None
            device.push(chain.head, 0)
            assert device.publish()
            assert len(driver.collect()) == 1
            assert not device.enable_kicks()
        assert device.base == 3


def test_a_chain_taken_back_is_the_next_to_come_however_often() -> None:
    with ring() as (driver, device, _):
        heads = [driver.add([Buffer(DATA, 4)]), driver.add([Buffer(DATA, 4)])]
        driver.publish()
        for _ in range(2 * SIZE):
            chain = device.pop()
            assert chain is not None
            assert chain.head == heads[0]
            device.un_pop()
            assert (device.base, device.outstanding) == (0, 0)
        assert [chain.head for chain in iter(device.pop, None)] == heads


@pytest.mark.parametrize("base", [0, 1, 2, 3])
def test_whatever_the_base_says_the_first_chain_that_was_not_answered_comes_first(
    base: int,
) -> None:
    with ring() as (driver, lost, ram):
        heads = [driver.add([Buffer(DATA, 4)]) for _ in range(3)]
        driver.publish()
        assert lost.pop() is not None
        lost.push(heads[0], 0)
        lost.publish()
        assert lost.pop() is not None  # and it ends with this one in its hands
        device = device_side(driver, ram, base=base)
        popped = [device.pop() for _ in range(3)]
        assert [chain and chain.head for chain in popped] == [*heads[1:], None]
        device.release()


def test_a_used_index_that_the_driver_cannot_have_reached_is_not_trusted() -> None:
    with ring() as (driver, _, ram):
        ram.write(driver.layout.used + 2, (5000).to_bytes(2, "little"))
        device = device_side(driver, ram)
        head = driver.add([Buffer(DATA, 4)])
        driver.publish()
        chain = device.pop()
        assert chain is not None
        assert chain.head == head
        device.release()
