"""Deflates that cannot be read, or can be read in more ways than one: no page of theirs is dropped.

The device is the one that users run: it answers an inflate and drops its pages a little later.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from tests.property.ring_under_test import RingFormat, serve
from tests.support.clock import FakeClock
from tests.support.driver_ring import Buffer
from tests.support.guest_memory import GuestRam, RamRegion
from tests.support.surroundings import FOR_EVER_NS, Surroundings

from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.regions import Region
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES

PAGE = 4096
RING_GPA, DATA_GPA, MIB = 0x1000, 0x10000, 1 << 20
INFLATE, DEFLATE = 0, 1
OFFERED = RING_FEATURES | BALLOON_FEATURES


class Guest:
    """A driver that gives pages and takes them back, and what its host has dropped."""

    def __init__(self, ram: GuestRam, page_bytes: int) -> None:
        self.ram, self.memory, self.clock = ram, GuestMemory(), FakeClock()
        (there,) = ram.regions
        region = Region(there.gpa, there.size, there.uva, there.file_offset, page_bytes)
        self.memory.replace([region], [ram.fd(there)])
        self.balloon = Balloon(BalloonSettings(OFFERED), self.clock)
        self.around = Surroundings(self.memory)
        self.balloon.connect(self.around, self.around)
        self.balloon.negotiate(OFFERED)
        self.drivers = [
            RingFormat.SPLIT.drive(ram, RING_GPA + 0x1000 * queue, 8, event_idx=False)
            for queue in (INFLATE, DEFLATE)
        ]
        for queue, driver in enumerate(self.drivers):
            self.balloon.attach(queue, serve(driver, self.memory, lambda: None))

    def send(self, queue: int, *buffers: Buffer) -> None:
        """One message, answered."""
        driver = self.drivers[queue]
        driver.add(buffers)
        driver.publish()
        assert self.balloon.process(queue, FOR_EVER_NS)
        assert self.around.discards == []
        assert len(driver.collect()) == 1

    def send_pfns(self, queue: int, *pfns: int) -> None:
        self.ram.write(DATA_GPA, struct.pack(f"<{len(pfns)}I", *pfns))
        self.send(queue, Buffer(DATA_GPA, 4 * len(pfns)))

    def dropped(self) -> set[int]:
        """Page numbers of everything that the device has put off."""
        self.balloon.inflation.flush()
        found = set()
        for ranges in self.around.discards:
            for offset, length in zip(
                ranges.offsets.tolist(), ranges.lengths.tolist(), strict=True
            ):
                found |= set(range(offset // PAGE, (offset + length) // PAGE))
        self.around.discards.clear()
        return found

    def close(self) -> None:
        for queue, driver in enumerate(self.drivers):
            self.balloon.detach(queue)
            driver.close()
        self.memory.close()


@pytest.fixture(params=[PAGE, 2 * MIB], ids=["small pages", "huge pages"])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    with GuestRam([RamRegion(gpa=0, size=8 * MIB, uva=0x1000_0000)]) as ram:
        made = Guest(ram, request.param)
        try:
            yield made
        finally:
            made.close()


GIVEN = range(512, 1024)  # one huge page


def give(guest: Guest) -> None:
    guest.send_pfns(INFLATE, *GIVEN[:256])
    guest.send_pfns(INFLATE, *GIVEN[256:])


def test_pages_that_are_given_and_not_taken_back_are_dropped(guest: Guest) -> None:
    give(guest)
    assert guest.dropped() == set(GIVEN)


@pytest.mark.parametrize(
    "buffers",
    [
        [Buffer(DATA_GPA, 2 * MIB)],
        [Buffer(DATA_GPA, 4), Buffer(64 * MIB, 4)],
        [Buffer(8 * MIB - 4, 8)],
        [Buffer(DATA_GPA, 6)],
        [Buffer(DATA_GPA, 4, is_writable=True)],
        [Buffer(DATA_GPA, 4), Buffer(DATA_GPA + 4, 4, is_writable=True)],
    ],
    ids=[
        "too long",
        "one descriptor outside memory",
        "half outside memory",
        "a trailing partial entry",
        "for the device to write",
        "in part for the device to write",
    ],
)
def test_a_deflate_that_cannot_be_read_takes_every_page_back(
    guest: Guest, buffers: list[Buffer]
) -> None:
    give(guest)
    guest.send(DEFLATE, *buffers)
    assert guest.dropped() == set()
    guest.send_pfns(INFLATE, *GIVEN[:1])  # of a huge page the other parts are the guest's, too
    assert guest.dropped() == (set() if guest.memory.table.regions[0].page_bytes > PAGE else {512})


@pytest.mark.parametrize(
    ("taken", "kept"),
    [((5, 0), {0, 5}), ((5, 0, 7, 0), {0, 5, 7}), ((0,), {0}), ((0, 0), {0}), ((7, 5), {5, 7})],
)
def test_every_page_that_a_deflate_may_mean_is_taken_back(
    taken: tuple[int, ...], kept: set[int]
) -> None:
    with GuestRam([RamRegion(gpa=0, size=8 * MIB, uva=0x1000_0000)]) as ram:
        guest = Guest(ram, PAGE)
        guest.send_pfns(INFLATE, 5, 0, 7)
        guest.send_pfns(DEFLATE, *taken)
        assert guest.dropped() == {0, 5, 7} - kept
        guest.close()


def test_a_long_message_is_obeyed_in_parts(guest: Guest) -> None:
    pfns = [*GIVEN] * (20_000 // len(GIVEN))
    guest.ram.write(DATA_GPA, struct.pack(f"<{len(pfns)}I", *pfns))
    assert len(pfns) > 2 * 8192
    driver = guest.drivers[INFLATE]
    driver.add([Buffer(DATA_GPA, 4 * len(pfns))])
    driver.publish()
    answered = []
    while not guest.balloon.process(INFLATE, 0):
        answered.append(len(driver.collect()))
    assert answered == [0, 0, 0, 0, 1]  # it is taken, three parts, its answer
    assert guest.balloon.counters.inflated_pages == len(pfns)
    assert guest.dropped() == set(GIVEN)
