"""Our driver's half of a ring, against devices that break the rules, and its fences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from tests.support.guest_memory import GuestRam, RamRegion

from ballonet.errors import RingError
from ballonet.virtio.ring.driver import DriverRing
from ballonet.virtio.ring.packed_driver import PackedDriverRing, packed_place
from ballonet.virtio.ring.split_driver import SplitDriverRing, split_place

RING, DATA, SIZE = 0x1000, 0x4000, 4
USED_FLAGS: Final = 1 << 7 | 1 << 15  # of a packed descriptor, first lap

each_format = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@contextmanager
def ring(
    *, packed: bool, fence: Callable[[], object] = lambda: None
) -> Iterator[tuple[GuestRam, DriverRing]]:
    with GuestRam([RamRegion(0, 0x8000, 0)]) as ram:

        def call() -> None:
            fence()

        driver: DriverRing = (
            PackedDriverRing(ram, packed_place(RING, SIZE), SIZE, call, event_idx=False)
            if packed
            else SplitDriverRing(ram, split_place(RING, SIZE), SIZE, call, event_idx=False)
        )
        yield ram, driver
        driver.release()


def use(ram: GuestRam, driver: DriverRing, head: int, *, packed: bool, length: int = 0) -> None:
    """As a device does that has this chain."""
    if packed:
        body = length.to_bytes(4, "little") + head.to_bytes(2, "little")
        ram.write(driver.place.desc + 8, body + USED_FLAGS.to_bytes(2, "little"))
    else:
        entry = head.to_bytes(4, "little") + length.to_bytes(4, "little")
        ram.write(driver.place.used + 2, (1).to_bytes(2, "little") + entry)


@each_format
def test_a_chain_the_device_never_had_is_not_taken_back(*, packed: bool) -> None:
    with ring(packed=packed) as (ram, driver):
        head = driver.add([(DATA, 4)])
        driver.publish()
        use(ram, driver, (head + 1) % SIZE, packed=packed)
        with pytest.raises(RingError, match="which it did not have"):
            driver.collect()
        assert driver.free_descriptors == SIZE - 1


@each_format
def test_what_is_added_stands_in_memory_before_it_is_shown(*, packed: bool) -> None:
    shown: list[bool] = []

    def look() -> None:
        if packed:
            flags = int.from_bytes(ram.read(driver.place.desc + 14, 2), "little")
            shown.append(bool(flags & 1 << 7))
        else:
            shown.append(ram.read(driver.place.avail + 2, 2) != b"\0\0")
        assert int.from_bytes(ram.read(driver.place.desc, 8), "little") == DATA

    with ring(packed=packed, fence=look) as (ram, driver):
        driver.add([(DATA, 4)])
        assert driver.publish()
    assert shown == [False, True]


@each_format
def test_an_answer_is_read_after_what_shows_it(*, packed: bool) -> None:
    actions: list[Callable[[], object]] = []
    with ring(packed=packed, fence=lambda: actions and actions.pop()()) as (ram, driver):
        head = driver.add([(DATA, 4)])
        driver.publish()
        use(ram, driver, head, packed=packed)
        actions.append(lambda: use(ram, driver, head, packed=packed, length=9))
        assert [used.length for used in driver.collect()] == [9]
