"""The packed ring: wrap-around, places to go on at, each broken rule, the races of notification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice

import pytest
from tests.support.driver_ring import F_INDIRECT, F_NEXT, F_WRITE, Buffer
from tests.support.guest_memory import GuestRam, RamRegion
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

from ballonet.errors import GuestMemoryError, RingError
from ballonet.virtio.ring.packed import (
    PackedAreas,
    PackedRing,
    check_packed_base,
    packed_area_bytes,
)

RING, DATA, TABLE = 0x1000, 0xC000, 0xD000
RAM_BYTES = 0x10000
FRESH = 0x8000_8000
SIZES = [1, 2, 3, 4, 7, 255]


class Driver(PackedDriverRing):
    """A driver that can do something in the middle of the device's work."""

    between: Callable[[], object] = staticmethod(lambda: None)


@dataclass(frozen=True)
class Memory:
    """The peer's memory, as the device wants to be told of what lies outside."""

    ram: GuestRam

    def view(self, gpa: int, length: int) -> memoryview:
        try:
            return self.ram.view(gpa, length)
        except LookupError as error:
            raise GuestMemoryError(gpa, length) from error


def attach(
    driver: Driver, ram: GuestRam, base: int, *, event_idx: bool = False, indirect: bool = True
) -> PackedRing:
    """The device's half; the driver's `between` runs at each of its fences."""
    place = driver.layout
    sizes = packed_area_bytes(driver.size)
    areas = zip((place.desc, place.avail, place.used), sizes, strict=True)
    views = PackedAreas(*(ram.view(*area) for area in areas))

    def fence() -> None:
        driver.between()

    return PackedRing(views, Memory(ram), fence, base=base, event_idx=event_idx, indirect=indirect)


@contextmanager
def ring(
    size: int = 4,
    *,
    event_idx: bool = False,
    indirect: bool = True,
    base: int = FRESH,
    start: Place | None = None,
) -> Iterator[tuple[Driver, PackedRing, GuestRam]]:
    """Both halves of one ring."""
    with GuestRam([RamRegion(0, RAM_BYTES, 0)]) as ram:
        driver = Driver(ram, RING, size, event_idx=event_idx, start=start or Place())
        device = attach(driver, ram, base, event_idx=event_idx, indirect=indirect)
        yield driver, device, ram
        device.release()
        driver.close()


def buffers(count: int) -> list[Buffer]:
    """So many buffers, the last for the device to write, none like another."""
    return [Buffer(DATA + 16 * i, i + 1, is_writable=0 < i == count - 1) for i in range(count)]


def serve(device: PackedRing, length: int = 0) -> int | None:
    """Use the next chain at once; returns its id, or None if there is none."""
    chain = device.pop()
    if chain is None:
        return None
    device.push(chain.head, length)
    device.publish()
    return chain.head


def lap(driver: Driver, device: PackedRing, slots: int) -> None:
    """Move an idle ring so many slots on."""
    for _ in range(slots):
        driver.add(buffers(1))
        driver.publish()
        assert serve(device) is not None
        assert len(driver.collect()) == 1


@pytest.mark.parametrize("size", SIZES)
def test_lists_of_every_length_go_round_the_end_for_many_laps(size: int) -> None:
    with ring(size) as (driver, device, _):
        lengths = islice(cycle(range(1, min(size, 9) + 1)), 40 + 3 * size)
        for number, count in enumerate(lengths):
            sent = buffers(count)
            buffer_id = driver.add(sent)
            assert device.pop() is None  # not shown yet
            driver.publish()
            chain = device.pop()
            assert chain is not None
            assert chain.head == buffer_id
            assert [*chain.readable, *chain.writable] == [(b.gpa, b.length) for b in sent]
            assert len(chain.writable) == (count > 1)
            assert device.pop() is None
            device.push(buffer_id, number)
            assert driver.collect() == []  # not published yet
            device.publish()
            assert driver.collect() == [(buffer_id, number)]
            assert driver.free_descriptors == size
            assert device.base == driver.base


@pytest.mark.parametrize("size", SIZES)
def test_a_full_ring_of_chains_is_used_in_order_and_in_one_batch(size: int) -> None:
    with ring(size) as (driver, device, _):
        for _ in range(5):
            ids = [driver.add(buffers(1)) for _ in range(size)]
            driver.publish()
            for buffer_id in ids:
                chain = device.pop()
                assert chain is not None
                assert chain.head == buffer_id
            assert device.pop() is None
            for buffer_id in ids:
                device.push(buffer_id, 0)
                assert driver.collect() == []
            device.publish()
            assert [used.head for used in driver.collect()] == ids
            lap(driver, device, 1)


def test_the_first_of_a_batch_is_shown_last() -> None:
    with ring(4) as (driver, device, _):
        ids = [driver.add(buffers(1)) for _ in range(4)]
        driver.publish()
        seen: list[list[bool]] = []

        def look() -> None:
            flags = [driver.read_descriptor(i)[3] for i in range(4)]
            seen.append([flag & F_USED != 0 for flag in flags])

        for _ in ids:
            device.pop()
        for buffer_id in ids:
            device.push(buffer_id, 0)
        driver.between = look
        device.publish()
        assert seen == [[False, True, True, True], [True, True, True, True]]


def test_the_flags_of_a_descriptor_are_read_before_the_rest() -> None:
    with ring() as (driver, device, _):
        driver.add([Buffer(DATA, 4)])
        driver.publish()
        # What a device would see that took address and length before it saw the flags.
        driver.write_descriptor(0, 0xDEAD, 99, 0, F_AVAIL)
        driver.between = lambda: driver.write_descriptor(0, DATA, 4, 0, F_AVAIL)
        chain = device.pop()
        assert chain is not None
        assert chain.readable == ((DATA, 4),)


@pytest.mark.parametrize("length", [0, 5])
def test_a_used_descriptor_says_whether_its_length_counts(length: int) -> None:
    with ring() as (driver, device, _):
        buffer_id = driver.add(buffers(2))
        driver.publish()
        assert serve(device, length) == buffer_id
        _, got, got_id, flags = driver.read_descriptor(0)
        assert (got, got_id) == (length, buffer_id)
        assert flags == F_AVAIL | F_USED | (F_WRITE if length else 0)
        # Nothing but the first descriptor of the list is written.
        assert driver.read_descriptor(1)[3] == F_AVAIL | F_WRITE


@pytest.mark.parametrize("count", [1, 4, 5, 1024])
def test_an_indirect_table_may_be_longer_than_the_ring_and_is_read_in_order(count: int) -> None:
    with GuestRam([RamRegion(0, RAM_BYTES, 0)]) as ram:
        driver = Driver(ram, RING, 4)
        device = attach(driver, ram, FRESH)
        for _ in range(9):
            buffer_id = driver.add(buffers(count), indirect_at=0x8000)
            driver.publish()
            chain = device.pop()
            assert chain is not None
            assert len(chain.readable) + len(chain.writable) == count
            device.push(buffer_id, 0)
            device.publish()
            assert [used.head for used in driver.collect()] == [buffer_id]
            assert device.base == driver.base
        device.release()
        driver.close()


def test_other_flags_inside_a_table_are_ignored() -> None:
    with ring() as (driver, device, ram):
        flags = F_NEXT | F_AVAIL | F_USED
        entry = DATA.to_bytes(8, "little") + bytes([4, 0, 0, 0, 9, 9])
        ram.write(TABLE, 2 * (entry + flags.to_bytes(2, "little")))
        driver.add_raw(1, [(TABLE, 32, F_INDIRECT | F_WRITE)])
        driver.publish()
        chain = device.pop()
        assert chain is not None
        assert (chain.readable, chain.writable) == (((DATA, 4), (DATA, 4)), ())


def places(size: int) -> list[Place]:
    return [Place(slot, wrap) for wrap in (True, False) for slot in range(size)]


@pytest.mark.parametrize("place", places(5), ids=str)
def test_a_ring_goes_on_at_every_position(place: Place) -> None:
    base = place.packed() << 16 | place.packed()
    with ring(5, base=base, start=place) as (driver, device, _):
        assert device.base == base
        assert device.pop() is None
        for count in [2, 1, 5, 3, 4, 5]:
            buffer_id = driver.add(buffers(count))
            driver.publish()
            assert serve(device) == buffer_id
            assert [used.head for used in driver.collect()] == [buffer_id]
        assert device.base == driver.base


@pytest.mark.parametrize("size", [1, 3, 4])
def test_a_ring_stopped_anywhere_goes_on_where_it_stood(size: int) -> None:
    with GuestRam([RamRegion(0, RAM_BYTES, 0)]) as ram:
        driver = Driver(ram, RING, size)
        base = 0  # as User-Mode Linux names the start
        for step in range(6 * size):
            device = attach(driver, ram, base)
            assert device.base == driver.base
            buffer_id = driver.add(buffers(step % size + 1))
            driver.publish()
            # Stopped with the chain in hand, and then with it done.
            assert device.pop() is not None
            device.un_pop()
            base = device.base
            device.release()
            device = attach(driver, ram, base)
            assert serve(device) == buffer_id
            base = device.base
            device.release()
            assert [used.head for used in driver.collect()] == [buffer_id]
        driver.close()


@pytest.mark.parametrize("waiting", [0, 1, 3])
def test_base_0_on_a_new_ring_means_its_start(waiting: int) -> None:
    with ring(3, base=FRESH) as (driver, _, ram):
        ids = [driver.add(buffers(1)) for _ in range(waiting)]
        driver.publish()
        device = attach(driver, ram, 0)
        assert device.base == FRESH
        assert [serve(device) for _ in ids] == ids
        device.release()


@pytest.mark.parametrize("waiting", [0, 1, 3])
def test_base_0_on_a_ring_that_was_used_means_the_second_lap(waiting: int) -> None:
    with ring(3) as (driver, first, ram):
        lap(driver, first, 3)
        assert first.base == 0
        ids = [driver.add(buffers(1)) for _ in range(waiting)]
        driver.publish()
        device = attach(driver, ram, 0)
        assert device.base == 0
        assert [serve(device) for _ in ids] == ids
        device.release()


def test_base_0_is_not_misread_where_a_list_went_round_the_end() -> None:
    with ring(3) as (driver, first, ram):
        lap(driver, first, 5)  # in the second lap, one slot before its end
        driver.add(buffers(3))
        driver.publish()
        assert serve(first) is not None
        driver.collect()
        # Slot 0 was the middle of the list: it keeps the driver's flags, as in a new ring.
        assert driver.read_descriptor(0)[3] & (F_AVAIL | F_USED) == F_AVAIL
        lap(driver, first, 1)
        assert first.base == 0
        device = attach(driver, ram, 0)
        assert device.base == 0
        device.release()


def test_the_chain_popped_last_becomes_available_again() -> None:
    with ring(5) as (driver, device, _):
        lap(driver, device, 3)
        ids = [driver.add(buffers(1)), driver.add(buffers(3))]
        driver.publish()
        assert device.pop()
        before = device.base
        chain = device.pop()
        device.un_pop()
        assert device.base == before
        assert device.pop() == chain
        for buffer_id in ids:
            device.push(buffer_id, 0)
        device.publish()
        assert [used.head for used in driver.collect()] == ids


@pytest.mark.parametrize(
    "base",
    [0x8003_8003, 0x0003_0003, 0x8000_8003, 0x0000_8001, 0x8001_8000, 0xFFFF_FFFF],
    ids=["both", "both second lap", "available", "too much", "used ahead", "ones"],
)
def test_a_base_that_cannot_be_is_found(base: int) -> None:
    with pytest.raises(RingError, match="in a queue of 3"):
        check_packed_base(base, 3)


@pytest.mark.parametrize("base", [0, FRESH, 0x8000_8002, 0x0002_0002, 0x8002_0001, 0x8000_0000])
def test_a_base_that_can_be_is_taken(base: int) -> None:
    check_packed_base(base, 3)


HOSTILE: dict[str, tuple[int, list[tuple[int, int, int]], str]] = {
    "a list longer than the ring": (0, 4 * [(DATA, 4, F_NEXT)], "too long"),
    "length 0": (0, [(DATA, 0, 0)], "length 0"),
    "length 0 at the end of a list": (0, [(DATA, 4, F_NEXT), (DATA, 0, 0)], "length 0"),
    "readable after writable": (0, [(DATA, 4, F_WRITE | F_NEXT), (DATA, 4, 0)], "after a writable"),
    "id just outside": (4, [(DATA, 4, 0)], "id 4 in a queue of 4"),
    "id far outside": (0xFFFF, [(DATA, 4, 0)], "id 65535"),
    "empty table": (0, [(TABLE, 0, F_INDIRECT)], "table of 0 bytes"),
    "half a descriptor in the table": (0, [(TABLE, 8, F_INDIRECT)], "table of 8 bytes"),
    "huge table": (0, [(TABLE, 16 * 1025, F_INDIRECT)], "table of 16400 bytes"),
    "table beyond memory": (0, [(RAM_BYTES - 8, 16, F_INDIRECT)], "outside memory"),
    "indirect with next": (0, [(TABLE, 16, F_INDIRECT | F_NEXT), (DATA, 4, 0)], "none may be"),
    "indirect inside a list": (0, [(DATA, 4, F_NEXT), (TABLE, 16, F_INDIRECT)], "none may be"),
    "nothing in the table": (0, [(TABLE, 16, F_INDIRECT)], "length 0"),
}


@pytest.mark.parametrize(("buffer_id", "entries", "text"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_chain_against_the_rules_is_found(
    buffer_id: int, entries: list[tuple[int, int, int]], text: str
) -> None:
    with ring() as (driver, device, _):
        driver.add_raw(buffer_id, entries)
        driver.publish()
        with pytest.raises(RingError, match=text):
            device.pop()
        assert device.base == FRESH


def test_a_table_inside_a_table_is_found() -> None:
    with ring() as (driver, device, ram):
        inner = TABLE.to_bytes(8, "little") + bytes([16, 0, 0, 0, 0, 0, F_INDIRECT, 0])
        ram.write(TABLE, inner)
        driver.add_raw(0, [(TABLE, 16, F_INDIRECT)])
        driver.publish()
        with pytest.raises(RingError, match="none may be"):
            device.pop()


def test_an_indirect_chain_that_was_not_negotiated_is_found() -> None:
    with ring(indirect=False) as (driver, device, _):
        driver.add(buffers(1), indirect_at=TABLE)
        driver.publish()
        with pytest.raises(RingError, match="not negotiated"):
            device.pop()


def test_an_id_that_is_in_flight_is_found() -> None:
    with ring() as (driver, device, _):
        driver.add_raw(2, [(DATA, 4, 0)])
        driver.add_raw(2, [(DATA, 4, 0)])
        driver.publish()
        assert device.pop()
        with pytest.raises(RingError, match="id 2 is in flight"):
            device.pop()


def test_more_descriptors_than_the_ring_holds_are_never_outstanding() -> None:
    with ring(3) as (driver, device, _):
        for buffer_id in range(3):
            driver.add_raw(buffer_id, [(DATA, 4, 0)])
        driver.publish()
        for _ in range(3):
            assert device.pop()
        driver.write_descriptor(0, DATA, 4, 0, F_USED)  # the next lap, without waiting
        with pytest.raises(RingError, match="3 descriptors are outstanding"):
            device.pop()


def test_a_list_longer_than_what_is_left_of_the_ring_is_found() -> None:
    with ring(3) as (driver, device, _):
        driver.add_raw(0, [(DATA, 4, 0)])
        driver.add_raw(1, [(DATA, 4, F_NEXT), (DATA, 4, F_NEXT)])
        driver.publish()
        assert device.pop()
        with pytest.raises(RingError, match="too long"):
            device.pop()


def test_chains_between_the_places_of_the_base_were_never_answered_and_come_again() -> None:
    with ring(3, base=0x8000_8002) as (driver, device, _):
        first = driver.add([Buffer(DATA, 4), Buffer(DATA, 4)])
        second = driver.add([Buffer(DATA, 8)])
        driver.publish()
        assert [found.head for found in (device.pop(), device.pop()) if found] == [first, second]
        device.push(first, 0)
        device.push(second, 0)
        device.publish()
        assert [used.head for used in driver.collect()] == [first, second]
        assert device.base == 0  # the first slot of the second lap, both places


def test_a_descriptor_changed_after_it_was_read_changes_nothing() -> None:
    with ring() as (driver, device, _):
        buffer_id = driver.add([Buffer(DATA, 4)])
        driver.publish()
        chain = device.pop()
        driver.write_descriptor(0, 0xDEAD0000, 1 << 31, 9, F_AVAIL | F_NEXT)
        assert chain is not None
        assert (chain.head, chain.readable, chain.writable) == (buffer_id, ((DATA, 4),), ())


def test_the_flags_that_showed_a_descriptor_are_the_ones_that_count() -> None:
    with ring() as (driver, device, _):
        buffer_id = driver.add([Buffer(DATA, 4)])
        driver.publish()
        changed = F_AVAIL | F_NEXT | F_WRITE
        driver.between = lambda: driver.write_descriptor(0, DATA, 4, buffer_id, changed)
        chain = device.pop()
        assert chain is not None
        assert (chain.readable, chain.writable) == (((DATA, 4),), ())


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_chain_added_while_kicks_are_switched_on_is_not_lost(*, event_idx: bool) -> None:
    with ring(event_idx=event_idx) as (driver, device, _):
        device.disable_kicks()
        driver.add(buffers(1))
        assert not driver.publish()
        assert device.pop()
        assert device.pop() is None
        late: list[int] = []

        def race() -> None:
            if not late:
                late.append(driver.add(buffers(1)))
                driver.publish()

        driver.between = race
        assert device.enable_kicks()
        assert device.pop()


@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_kicks_come_when_wanted_and_only_then(size: int, *, event_idx: bool) -> None:
    with ring(size, event_idx=event_idx) as (driver, device, _):
        for step in range(4 * size):
            wanted = step % 3 != 0
            if wanted:
                assert not device.enable_kicks()
            else:
                device.disable_kicks()
            driver.add(buffers(1))
            assert driver.publish() == wanted
            assert serve(device) is not None
            driver.collect()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_with_event_idx_the_device_hears_of_its_place_once(size: int) -> None:
    with ring(size, event_idx=True) as (driver, device, _):
        for _ in range(3 * size):
            assert not device.enable_kicks()
            assert driver.device_event == (EVENT_DESC, driver.base & 0xFFFF)
            kicks = []
            for _ in range(2):
                driver.add(buffers(1))
                kicks.append(driver.publish())
            assert kicks == [True, False]
            while serve(device) is not None:
                pass
            driver.collect()


@pytest.mark.parametrize("event_idx", [False, True])
def test_calls_come_when_wanted_and_only_then(*, event_idx: bool) -> None:
    with ring(3, event_idx=event_idx) as (driver, device, _):
        for step in range(20):
            wanted = step % 3 != 0
            driver.want_calls(wanted)
            driver.add(buffers(1))
            driver.publish()
            chain = device.pop()
            assert chain is not None
            device.push(chain.head, 0)
            assert device.publish() == wanted
            driver.collect()


@pytest.mark.parametrize("start", places(3), ids=str)
@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_a_call_comes_when_the_wanted_place_is_passed_wherever_it_lies(
    start: Place, ahead: int
) -> None:
    base = start.packed() << 16 | start.packed()
    with ring(3, event_idx=True, base=base, start=start) as (driver, device, _):
        driver.add(buffers(1))
        driver.publish()
        serve(device)  # the first call after a start always comes
        driver.collect()
        place = start.after(1, 3).after(ahead, 3)
        driver.want_calls(False)
        driver.set_driver_event(EVENT_DESC, place.packed())
        calls = []
        for _ in range(3):
            driver.add(buffers(1))
        driver.publish()
        for _ in range(3):
            chain = device.pop()
            assert chain is not None
            device.push(chain.head, 0)
            calls.append(device.publish())
        assert calls == [step == ahead for step in range(3)]


def test_a_place_is_no_wish_without_event_idx() -> None:
    with ring(event_idx=False) as (driver, device, _):
        for flags, wanted in [(EVENT_ENABLE, True), (EVENT_DISABLE, False), (EVENT_DESC, True)]:
            driver.want_calls(False)
            driver.set_driver_event(flags, 0x7FFF)
            driver.add(buffers(1))
            driver.publish()
            chain = device.pop()
            assert chain is not None
            device.push(chain.head, 0)
            assert device.publish() == wanted


def test_the_largest_ring_goes_round() -> None:
    size = 32768
    with GuestRam([RamRegion(0, 0x90000, 0)]) as ram:
        driver = Driver(ram, 0x1000, size, event_idx=True)
        device = attach(driver, ram, FRESH, event_idx=True)
        for _ in range(2 * size + 3):
            driver.add([Buffer(DATA, 4)])
            driver.publish()
            assert serve(device) is not None
            assert len(driver.collect()) == 1
        assert device.base == 0x8003_8003
        device.release()
        driver.close()


def test_the_parts_lie_where_the_specification_counts_them() -> None:
    assert PackedLayout.at(RING, 3) == PackedLayout(RING, RING + 48, RING + 52, RING + 56)
    assert packed_area_bytes(3) == (48, 4, 4)
