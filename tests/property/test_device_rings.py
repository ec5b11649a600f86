"""The device against drivers that keep the rules, break them, or do both in one breath.

The driver's half of the ring and the guest's memory are the test peer's own; what the device asks
for is obeyed here, one effect at a time, with a look at the ring before each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.ring_under_test import AnyDriverRing, RingFormat, serve
from tests.support.clock import FakeClock
from tests.support.driver_ring import Buffer, DriverRing
from tests.support.guest_memory import GuestRam, RamRegion
from tests.support.packed_driver_ring import F_AVAIL, F_USED, PackedDriverRing
from tests.support.surroundings import FOR_EVER_NS, Surroundings

from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.regions import Region
from ballonet.memory.runs import Ranges
from ballonet.virtio.features import RING_FEATURES, Feature

SIZE = 8
RING_GPA, DATA_GPA = 0x1000, 0x4000
REGIONS = (
    RamRegion(gpa=0, size=0x10000, uva=0x1000_0000),
    RamRegion(gpa=0x20000, size=0x8000, uva=0x2000_0000, file=1),
)
OFFERED = RING_FEATURES | Feature.IN_ORDER | Feature.MUST_TELL_HOST | Feature.STATS_VQ
EACH_FORMAT = list(RingFormat)
formats = st.sampled_from(RingFormat)
each_format = pytest.mark.parametrize("ring_format", EACH_FORMAT, ids=repr)


@dataclass
class Running:
    """A device, the driver of one of its rings, and what was discarded."""

    balloon: Balloon
    memory: GuestMemory
    ram: GuestRam
    driver: AnyDriverRing
    queue: int
    discarded: set[int]
    around: Surroundings = field(init=False)
    _is_flushing: bool = False

    def __post_init__(self) -> None:
        self.around = Surroundings(self.memory, self._see_discard)
        self.balloon.connect(self.around, self.around)

    def step(self) -> None:
        """Let the device work until it wants nothing more, and drop what waits."""
        assert self.balloon.process(self.queue, FOR_EVER_NS)
        self._is_flushing = True
        self.balloon.inflation.flush()
        self._is_flushing = False

    def _see_discard(self, ranges: Ranges) -> None:
        if self._is_flushing:
            assert self.balloon.settings.defers
        elif self.queue == 0:
            # The page must still be the device's: its chain is not used yet.
            assert self.driver.used_idx != self.driver.avail_idx
        region = self.memory.table.regions[ranges.region]
        for offset, length in zip(ranges.offsets, ranges.lengths, strict=True):
            assert 0 <= offset < offset + length <= region.size
            first = (region.gpa + int(offset)) >> 12
            self.discarded |= set(range(first, first + (int(length) >> 12)))

    def attach(self, base: int = 0) -> None:
        """Give the device its side of the ring."""
        self.balloon.attach(self.queue, serve(self.driver, self.memory, lambda: None, base=base))

    def restart(self) -> None:
        """Stop the device's side and let it go on where it stood."""
        base = self.balloon.detach(self.queue)
        assert base is not None
        self.attach(base)


@contextmanager
def run_device(
    ring_format: RingFormat, queue: int, *, event_idx: bool, defers: bool = True
) -> Iterator[Running]:
    """A device with one running ring."""
    with GuestRam(REGIONS) as ram:
        memory = GuestMemory()
        regions = [Region(r.gpa, r.size, r.uva, r.file_offset) for r in ram.regions]
        memory.replace(regions, [ram.fd(r) for r in ram.regions])
        driver = ring_format.drive(ram, RING_GPA, SIZE, event_idx=event_idx)
        balloon = Balloon(BalloonSettings(OFFERED, defers=defers), FakeClock())
        balloon.negotiate(OFFERED)
        running = Running(balloon, memory, ram, driver, queue, set())
        running.attach()
        try:
            yield running
        finally:
            balloon.detach(queue)
            running.driver.close()
            memory.close()


page_numbers = st.lists(st.integers(0, 0x30), min_size=1, max_size=40)
messages = st.lists(
    st.tuples(page_numbers, st.integers(1, 4), st.booleans()), min_size=1, max_size=6
)


def pages_given(pfns: list[int]) -> set[int]:
    """What an inflate gives for certain: a list that may be of 64-bit numbers gives no page 0."""
    may_be_64_bit = len(pfns) % 2 == 0 and set(pfns[1::2]) == {0}
    return set(pfns[::2]) if may_be_64_bit else set(pfns)


@given(formats, messages, st.booleans(), st.booleans())
def test_every_inflate_is_answered_once_and_exactly_its_pages_go(
    ring_format: RingFormat,
    sent: list[tuple[list[int], int, bool]],
    event_idx: bool,
    defers: bool,
) -> None:
    with run_device(ring_format, 0, event_idx=event_idx, defers=defers) as run:
        expected: set[int] = set()
        there = {p for r in REGIONS for p in range(r.gpa >> 12, (r.gpa + r.size) >> 12)}
        for pfns, pieces, indirect in sent:
            raw = np.array(pfns, "<u4").tobytes()
            cut = max(1, -(-len(raw) // pieces))
            parts = range(0, len(raw), cut)
            buffers = [Buffer(DATA_GPA + at, min(cut, len(raw) - at)) for at in parts]
            run.ram.write(DATA_GPA, raw)
            run.driver.add(buffers, indirect_at=DATA_GPA + 0x1000 if indirect else None)
            expected |= pages_given(pfns) & there
            kick = run.driver.publish()
            assert kick  # the device was idle, so it must have asked for this kick
            run.step()
            assert [used.length for used in run.driver.collect()] == [0]
        assert run.discarded == expected
        assert len(run.around.calls) == len(sent)
        assert run.balloon.counters.inflate_messages == len(sent)


# Raw descriptors: address, length, flags, next. Half of them are sound, so that a device gets deep
# into a ring before it meets a bad one.
sound = st.tuples(st.integers(DATA_GPA, DATA_GPA + 128), st.integers(1, 64), st.just(0), st.just(0))
wild = st.tuples(
    st.one_of(
        st.sampled_from([0, RING_GPA, DATA_GPA, 0xFFF0, 0x10000, 0x1FFFF, 0x27FFC, 2**64 - 4]),
        st.integers(0, 2**64 - 1),
    ),
    st.one_of(st.sampled_from([0, 1, 4, 16, 32, 4096, 2**20 + 4, 2**32 - 1]), st.integers(0, 200)),
    st.integers(0, 15),
    st.integers(0, SIZE + 2),
)
head = st.one_of(st.integers(0, SIZE - 1), st.integers(0, SIZE + 1))
rings = st.tuples(
    st.lists(st.one_of(sound, wild), min_size=SIZE, max_size=SIZE),
    st.lists(head, min_size=SIZE, max_size=SIZE),
    st.one_of(st.integers(0, SIZE), st.integers(0, 2**16 - 1)),
    st.binary(min_size=256, max_size=256),
)


def used_entries(ram: GuestRam, driver: AnyDriverRing) -> list[tuple[int, int]]:
    """Everything the device has used, read straight from memory."""
    raw = ram.read(driver.layout.used + 4, 8 * SIZE)
    return list(struct.iter_unpack("<II", raw))[: driver.used_idx]


@settings(max_examples=300)
@given(rings, st.sampled_from([0, 1, 2, 4]), st.booleans())
def test_a_hostile_split_ring_costs_the_driver_its_device_and_nobody_else_anything(
    ring: tuple[list[tuple[int, int, int, int]], list[int], int, bytes],
    queue: int,
    event_idx: bool,
) -> None:
    descriptors, heads, avail_idx, garbage = ring
    with run_device(RingFormat.SPLIT, queue, event_idx=event_idx) as run:
        assert isinstance(run.driver, DriverRing)
        run.ram.write(DATA_GPA, garbage)
        for i, (addr, length, flags, following) in enumerate(descriptors):
            run.driver.write_descriptor(i, addr, length, flags, following)
        for i, head in enumerate(heads):
            run.driver.set_avail_entry(i, head)
        run.driver.set_avail_idx(avail_idx)
        used_area = slice(run.driver.layout.used, run.driver.layout.end)
        before = [bytearray(run.ram.read(r.gpa, r.size)) for r in REGIONS]

        process_checking_discards(run)
        after = [bytearray(run.ram.read(r.gpa, r.size)) for r in REGIONS]
        before[0][used_area] = after[0][used_area]
        assert before == after  # only the used ring was written
        answered = [head for head, _ in used_entries(run.ram, run.driver)]
        held = run.balloon.statistics.held
        if queue == 2 and held is not None:
            answered.append(held)
        assert answered == heads[: len(answered)]  # each once, in order, none made up
        if run.balloon.queues.broken is None:
            assert len(answered) == avail_idx
        if avail_idx > SIZE:
            assert (answered, run.balloon.queues.broken is None) == ([], False)

        serve_an_honest_driver(run, RingFormat.SPLIT)


# Raw packed descriptors: address, length, id, flags; the first lap of a ring.
packed_sound = st.tuples(
    st.integers(DATA_GPA, DATA_GPA + 128),
    st.integers(1, 64),
    st.integers(0, SIZE - 1),
    st.sampled_from([F_AVAIL, F_AVAIL, F_AVAIL | 1]),
)
packed_wild = st.builds(
    lambda found, buffer_id, mark: (*found[:2], buffer_id, found[2] | mark),
    wild,
    st.one_of(st.integers(0, SIZE + 1), st.integers(0, 2**16 - 1)),
    st.sampled_from([F_AVAIL, F_AVAIL, F_AVAIL, F_USED, F_AVAIL | F_USED, 0]),
)
packed_rings = st.lists(
    st.one_of(packed_sound, packed_sound, packed_wild), min_size=SIZE, max_size=SIZE
)


def packed_lists(descriptors: list[tuple[int, int, int, int]]) -> Iterator[tuple[int, int]]:
    """Slot and id of each list of the first lap, in order; one that goes round the end has no id.

    Written another way than the device reads them: from the text of the specification.
    """
    slot = 0
    while slot < SIZE and descriptors[slot][3] & (F_AVAIL | F_USED) == F_AVAIL:
        first = slot
        while slot < SIZE and descriptors[slot][3] & 1:
            slot += 1
        yield first, descriptors[slot][2] if slot < SIZE else -1
        slot += 1


@settings(max_examples=300)
@given(packed_rings, st.binary(min_size=256, max_size=256), st.sampled_from([0, 1, 2, 4]))
def test_a_hostile_packed_ring_costs_the_driver_its_device_and_nobody_else_anything(
    descriptors: list[tuple[int, int, int, int]], garbage: bytes, queue: int
) -> None:
    with run_device(RingFormat.PACKED, queue, event_idx=True) as run:
        assert isinstance(run.driver, PackedDriverRing)
        run.balloon.detach(queue)
        run.attach(base=0x8000_8000)
        run.ram.write(DATA_GPA, garbage)
        for i, descriptor in enumerate(descriptors):
            run.driver.write_descriptor(i, *descriptor)
        before = [bytearray(run.ram.read(r.gpa, r.size)) for r in REGIONS]

        process_checking_discards(run)

        after = [bytearray(run.ram.read(r.gpa, r.size)) for r in REGIONS]
        written = [slice(run.driver.layout.used, run.driver.layout.end)]
        held = run.balloon.statistics.held
        asked = list(packed_lists(descriptors))
        answered = 0
        for slot, buffer_id in asked:
            _, length, used_id, flags = run.driver.read_descriptor(slot)
            if (length, flags) != (0, F_AVAIL | F_USED):
                break
            assert used_id == buffer_id or buffer_id < 0
            written.append(slice(RING_GPA + 16 * slot + 8, RING_GPA + 16 * slot + 16))
            answered += 1
        for area in written:
            before[0][area] = after[0][area]
        assert before == after  # only used descriptors and the device event were written
        if queue == 2 and held is not None:
            assert held == asked[answered][1] or asked[answered][1] < 0
            answered += 1
        if run.balloon.queues.broken is None:
            assert answered == len(asked)
        serve_an_honest_driver(run, RingFormat.PACKED)


def process_checking_discards(run: Running) -> None:
    """Let the device work; whatever it discards lies in memory."""
    assert run.balloon.process(run.queue, FOR_EVER_NS)
    for ranges in run.around.discards:
        size = run.memory.table.regions[ranges.region].size
        assert (ranges.offsets >= 0).all()
        assert (ranges.offsets + ranges.lengths <= size).all()


def serve_an_honest_driver(run: Running, ring_format: RingFormat) -> None:
    """Set up anew, the same device serves one that keeps the rules."""
    run.balloon.detach(run.queue)
    event_idx = run.driver.event_idx
    run.driver.close()
    run.driver = ring_format.drive(run.ram, RING_GPA, SIZE, event_idx=event_idx)
    run.attach()
    run.driver.add([Buffer(DATA_GPA, 4), Buffer(DATA_GPA, 4)])
    run.driver.publish()
    run.step()
    assert run.driver.used_idx == (0 if run.queue == 2 else 1)


# What a driver may do next: offer chains (the second of a pair is a message outside memory), let
# the device work, ask for statistics, stop and start.
deeds = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(1, 3), st.booleans()),
        st.tuples(st.sampled_from(["work", "work", "ask", "restart"]), st.just(0), st.just(False)),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(formats, st.sampled_from([0, 1, 2, 4]), deeds, st.booleans())
def test_chains_are_used_in_the_order_they_were_made_available(
    ring_format: RingFormat, queue: int, done: list[tuple[str, int, bool]], event_idx: bool
) -> None:
    with run_device(ring_format, queue, event_idx=event_idx) as run:
        assert Feature.IN_ORDER in run.balloon.negotiated
        offered: list[int] = []
        used: list[int] = []
        for deed, pieces, is_outside in done:
            if deed == "offer" and run.driver.free_descriptors >= pieces:
                gpa = 0xFFFF_0000 if is_outside else DATA_GPA
                offered.append(run.driver.add([Buffer(gpa, 4)] * pieces))
                run.driver.publish()
            elif deed == "work":
                run.step()
            elif deed == "ask":
                run.balloon.polling.ask()
            elif deed == "restart":
                run.restart()
            used += [entry.head for entry in run.driver.collect()]
            assert used == offered[: len(used)]
        run.step()
        used += [entry.head for entry in run.driver.collect()]
        held = run.balloon.statistics.held
        assert used + ([] if held is None else [held]) == offered
        assert run.balloon.queues.broken is None


@each_format
def test_a_driver_that_never_stops_adding_chains_cannot_keep_the_device_to_itself(
    ring_format: RingFormat,
) -> None:
    with run_device(ring_format, 1, event_idx=False) as run:
        run.driver.want_calls(False)
        for done in range(1, 3 * SIZE):
            run.driver.add([Buffer(DATA_GPA, 4)])
            run.driver.publish()
            assert not run.balloon.process(1, 0)
            assert len(run.driver.collect()) == 1
            assert run.driver.used_idx == done


@each_format
def test_stopping_in_the_middle_of_a_message_leaves_it_for_the_next_start(
    ring_format: RingFormat,
) -> None:
    with run_device(ring_format, 0, event_idx=False, defers=False) as run:
        run.ram.write(DATA_GPA, np.array([3, 4], "<u4").tobytes())
        run.driver.add([Buffer(DATA_GPA, 8)])
        run.driver.publish()
        begin = run.balloon.detach(0)
        assert begin is not None
        run.attach(begin)
        while not run.discarded:
            assert not run.balloon.process(0, 0)
        # Whoever is told this place, in another process perhaps, serves the message again.
        assert run.balloon.detach(0) == begin
        run.attach(begin)
        assert run.driver.used_idx == 0
        run.step()
        assert [used.length for used in run.driver.collect()] == [0]
        assert run.balloon.counters.inflate_messages == 1


@each_format
def test_a_held_statistics_buffer_is_available_again_after_a_stop(ring_format: RingFormat) -> None:
    with run_device(ring_format, 2, event_idx=True) as run:
        run.ram.write(DATA_GPA, struct.pack("<HQ", 4, 77))
        head = run.driver.add([Buffer(DATA_GPA, 10)])
        run.driver.publish()
        run.step()
        assert run.balloon.statistics.held == head
        assert run.driver.used_idx == 0
        run.restart()
        assert run.balloon.statistics.held is None
        run.step()
        calls = len(run.around.calls)
        run.balloon.polling.ask()
        assert len(run.around.calls) == calls + 1
        assert [used.head for used in run.driver.collect()] == [head]


@each_format
def test_a_statistics_buffer_that_cannot_be_read_sends_the_held_one_back_first(
    ring_format: RingFormat,
) -> None:
    with run_device(ring_format, 2, event_idx=False) as run:
        heads = [
            run.driver.add([Buffer(DATA_GPA, 10)]),
            run.driver.add([Buffer(0xFFFF_0000, 10)]),
            run.driver.add([Buffer(DATA_GPA, 10)]),
        ]
        run.driver.publish()
        run.step()
        assert [used.head for used in run.driver.collect()] == heads[:2]
        assert run.balloon.statistics.held == heads[2]
        run.restart()
        run.step()
        assert run.balloon.statistics.held == heads[2]


@each_format
def test_a_chain_outside_memory_is_answered_even_if_the_ring_stops_meanwhile(
    ring_format: RingFormat,
) -> None:
    with run_device(ring_format, 0, event_idx=False) as run:
        head = run.driver.add([Buffer(0xFFFF_0000, 4)])
        run.driver.publish()
        run.balloon.process(0, 0)
        run.restart()
        run.step()
        assert [used.head for used in run.driver.collect()] == [head]
