"""A device with a guest and a host that do what a script says, and the checks after every step."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, NamedTuple

from tests.fuzz.oracle import Oracle
from tests.fuzz.script import Script
from tests.fuzz.setting import FindingError, RunInput
from tests.fuzz.spy_ring import SpyRing
from tests.property.ring_under_test import RingFormat, serve
from tests.support.clock import FakeClock
from tests.support.driver_ring import Buffer
from tests.support.guest_memory import GuestRam, RamRegion
from tests.support.surroundings import Surroundings

from ballonet.balloon.facts import Fact, PagesHinted, RingBroken
from ballonet.balloon.inhibition import InhibitReason
from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.errors import GuestMemoryError, RingError, SettingsError
from ballonet.memory.mapping import GuestMemory
from ballonet.memory.regions import Region
from ballonet.memory.runs import Ranges
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES, Feature
from ballonet.virtio.queues import QUEUE_COUNT, QueueRole
from ballonet.virtio.ring.chain import Chain

SIZE: Final = 8
RINGS_GPA, RING_BYTES, DATA_GPA = 0x1000, 0x1000, 0x8000
REGIONS: Final = (
    RamRegion(gpa=0, size=0x10000, uva=0x1000_0000),
    RamRegion(gpa=0x40000, size=0x43000, uva=0x2000_0000, file_offset=0x3000, file=1),
)
COARSE: Final = 0x10000  # host pages of the second region
OFFERED: Final = RING_FEATURES | BALLOON_FEATURES
#: Places a hostile driver likes: rings, data, borders of regions, nothing.
PLACES: Final = (
    *(DATA_GPA, DATA_GPA, DATA_GPA + 0x1000, 0x40000, 0x4D000, 0x50000, 0x5D000),
    *(RINGS_GPA, 0, 0xFFFC, 0x10000, 0x83000 - 8, 0x83000, 2**32, 2**64 - 16),
)
STEPS_MAX: Final = 400
_NO_DIGITS: Final = {ord(digit): None for digit in "0123456789"}


class Setting(NamedTuple):
    """What all machines of a run have in common; a `FuzzSetting`."""

    ring_format: RingFormat
    balloon: BalloonSettings = BalloonSettings(OFFERED)
    hostile_deflates: bool = False  #: every second operation is a deflate that is hard to read

    def __str__(self) -> str:
        defers = "" if self.balloon.defers else "-not-deferred"
        return f"{self.ring_format.value}{'-deflates' * self.hostile_deflates}{defers}"

    @contextmanager
    def ready(self) -> Iterator[RunInput]:
        with world(self) as place:
            yield partial(run_input, place)


class World:
    """Guest memory that outlives many machines: mapping it anew each time would be slow."""

    def __init__(self, ram: GuestRam, setting: Setting) -> None:
        self.ram, self.setting, self.ring_format = ram, setting, setting.ring_format
        self.memory = GuestMemory()
        pages = (4096, COARSE)
        self.memory.replace(
            [
                Region(r.gpa, r.size, r.uva, r.file_offset, page)
                for r, page in zip(ram.regions, pages, strict=True)
            ],
            [ram.fd(r) for r in ram.regions],
        )
        self.views = [self.memory.view(r.gpa, r.size) for r in ram.regions]
        self.untouched = bytes(self.views[1])  # nobody writes there


@contextmanager
def world(setting: Setting) -> Iterator[World]:
    """Memory for as many machines as wanted, one after the other."""
    with GuestRam(REGIONS) as ram:
        made = World(ram, setting)
        try:
            yield made
        finally:
            for view in made.views:
                view.release()
            made.memory.close()


class Machine:
    """One device, from its features to its end."""

    def __init__(self, place: World, script: Script) -> None:
        self._world, self._script = place, script
        self._clock = FakeClock()
        self.device = Balloon(place.setting.balloon, self._clock)
        self._oracle = Oracle(place.memory)
        self._drivers = [
            place.ring_format.drive(place.ram, self._ring_gpa(q), SIZE, event_idx=bool(q & 1))
            for q in range(QUEUE_COUNT)
        ]
        self._rings: dict[int, SpyRing] = {}
        self._bases: dict[int, int] = {}
        self._inhibited: list[InhibitReason] = []
        self.trace: set[str] = set()
        self._serving: int | None = None  # the queue whose chains the device works on
        self._may_drop_waiting = False
        self._around = Surroundings(place.memory, self._check_discard)
        self.device.connect(self._around, self._around)
        self.device.observers.add(self._check_fact, details=True)
        self.device.negotiate(int(OFFERED))

    def run(self) -> None:
        """Everything the script says. Raises: whatever the device should not."""
        for queue in range(QUEUE_COUNT):
            self._attach(queue)
        for _ in range(STEPS_MAX):
            if self._script.is_over:
                break
            operations = _OPERATIONS
            if self._world.setting.hostile_deflates and self._script.byte() & 1:
                operations = _DEFLATES
            operations[self._script.byte() % len(operations)](self)
        self.close()

    def close(self) -> None:
        """Stop every ring, whatever state it is in."""
        for queue in range(QUEUE_COUNT):
            self._detach(queue)
        for driver in self._drivers:
            driver.close()

    def abandon(self) -> None:
        """Give up the memory after a finding, without asking the device for anything."""
        for spy in self._rings.values():
            spy.release()
        for driver in self._drivers:
            driver.close()

    # What the guest does.

    def add_chain(self) -> None:
        """An ordinary chain for a queue, with content its role expects."""
        queue, count = self._script.byte() % QUEUE_COUNT, self._script.byte() % 4 + 1
        driver = self._drivers[queue]
        if driver.free_descriptors < count:
            self._collect(queue)
        if driver.free_descriptors < count:
            return
        writable = self._script.byte() % 4 == 0
        if self.device.queues.roles[queue] in (QueueRole.HINT, QueueRole.REPORTING):
            writable = not writable
        buffers = [self._buffer(writable) for _ in range(count)]
        table = DATA_GPA + 0x4000 if self._script.byte() % 8 == 0 else None
        driver.add(buffers, indirect_at=table)
        driver.publish()

    def move_pages(self) -> None:
        """An honest inflate or deflate message, often of the coarse region."""
        queue = self._script.byte() & 1
        first = self._script.choose((0x40, 0x44, 0x4D, 0x5D, 8, 12)) + self._script.byte() % 24
        count = self._script.byte() % 40 + 1
        self._world.ram.write(DATA_GPA, struct.pack(f"<{count}I", *range(first, first + count)))
        self._send(queue, Buffer(DATA_GPA, 4 * count))

    def move_wide_pages(self) -> None:
        """The same in 64-bit numbers, or in 32-bit numbers that look like those."""
        queue = self._script.byte() & 1
        first, count = 0x40 + self._script.byte() % 48, self._script.byte() % 20 + 1
        high = self._script.choose((0, 0, 0, 1))
        words = [word for i in range(count) for word in (first + i, high)]
        self._world.ram.write(DATA_GPA, struct.pack(f"<{2 * count}I", *words))
        self._send(queue, Buffer(DATA_GPA, 8 * count - self._script.choose((0, 0, 4))))

    def deflate_all_and_more(self) -> None:
        """A deflate that is longer than any message may be, or has no end."""
        length = self._script.choose((0x43000, 0x10001, 0x10000, 0xFFFF, 5, 4097))
        self._send(1, Buffer(0x40000, length))

    def deflate_outside_memory(self) -> None:
        """A deflate of which only a part, or nothing, can be read."""
        gpa = self._script.choose((0x10000 - 8, 0x83000 - 4, 2**40, 2**64 - 16, 0x20000))
        buffers = [Buffer(DATA_GPA, 4), Buffer(gpa, 16)]
        self._send(1, *buffers[self._script.byte() & 1 :])

    def deflate_to_write(self) -> None:
        """A deflate whose page numbers stand where only the device may write."""
        buffers = [Buffer(DATA_GPA, 8), Buffer(DATA_GPA + 8, 8, is_writable=True)]
        self._send(1, *buffers[self._script.byte() & 1 :])

    def report_pages(self) -> None:
        """Free blocks, on the hint or the reporting queue."""
        queue = 3 + (self._script.byte() & 1)
        gpa = self._script.choose((0x40000, 0x4D000, 0x5D000, 0xA000)) + self._script.byte() * 512
        length = self._script.choose((0x1000, 0x4000, 0x10000, 0x20000, 0x5001))
        self._send(queue, Buffer(gpa, length, is_writable=True))

    def say_word(self) -> None:
        """The hint round's id, or STOP, as a driver says it."""
        self.write_word()
        self._send(3, Buffer(DATA_GPA, 4))

    def _send(self, queue: int, *buffers: Buffer) -> None:
        self._collect(queue)
        driver = self._drivers[queue]
        if driver.free_descriptors >= len(buffers):
            driver.add(buffers)
            driver.publish()
            self._process(queue, None)

    def write_pfns(self) -> None:
        """Page numbers where messages are read from."""
        first, count = self._script.word(), self._script.byte() % 64 + 1
        step = self._script.choose((1, 1, 2, -1, 0))
        words = [(first + i * step) & 0xFFFF_FFFF for i in range(count)]
        self._world.ram.write(DATA_GPA, struct.pack(f"<{count}I", *words))

    def write_bytes(self) -> None:
        """Raw bytes somewhere in the data area."""
        at, raw = self._script.byte() * 16, self._script.take(self._script.byte() % 32)
        self._world.ram.write(DATA_GPA + at, raw)

    def write_word(self) -> None:
        """A hint round's id, or something like it."""
        ids = (self.device.hint_round.cmd_id, 0, 1, self.device.hint_round.cmd_id - 1)
        word = self._script.choose(ids)
        self._world.ram.write(DATA_GPA, word.to_bytes(4, "little"))

    def break_ring(self) -> None:
        """Raw bytes into a ring."""
        queue = self._script.byte() % QUEUE_COUNT
        at = self._script.word() % (RING_BYTES // 4)
        raw = self._script.take(self._script.byte() % 17)
        self._world.ram.write(self._ring_gpa(queue) + at, raw)

    def break_descriptor(self) -> None:
        """A descriptor that looks right in parts."""
        queue, index = self._script.byte() % QUEUE_COUNT, self._script.byte() % SIZE
        raw = struct.pack(
            "<QIHH",
            (self._script.choose(PLACES) + self._script.byte()) & (2**64 - 1),
            self._script.word() & 0xFFFF_FFFF,
            self._script.byte(),
            self._script.byte() % (SIZE + 2),
        )
        self._world.ram.write(self._ring_gpa(queue) + 16 * index, raw)

    def read_config(self) -> None:
        offset, length = self._script.word() & 0xFFFF, self._script.byte()
        assert len(self.device.read_config(offset, length)) == length

    def write_config(self) -> None:
        offset, raw = self._script.byte() % 20, self._script.take(self._script.byte() % 24)
        self.device.write_config(offset, raw)

    def kick(self) -> None:
        """The device works on a queue until it wants no more."""
        self._process(self._script.byte() % QUEUE_COUNT, None)

    def interrupt(self) -> None:
        """The device works a little, then its ring is stopped and started."""
        queue = self._script.byte() % QUEUE_COUNT
        self._process(queue, self._script.byte() % 6)
        self._detach(queue)
        self._attach(queue)

    def restart(self) -> None:
        """A ring is set up anew, at whatever base."""
        queue = self._script.byte() % QUEUE_COUNT
        self._detach(queue)
        self._attach(queue, self._script.word() & 0xFFFF)

    def stop_all(self) -> None:
        """The VM stops and goes on."""
        for queue in range(QUEUE_COUNT):
            self._detach(queue)
        for queue in range(QUEUE_COUNT):
            self._attach(queue)

    def reset(self) -> None:
        """Another driver comes, and accepts what it likes."""
        for queue in range(QUEUE_COUNT):
            self._detach(queue)
        (self.device.forget_guest if self._script.byte() & 1 else self.device.reset)()
        features = self._script.choose((0, 0x3F, 0x21, 0x31, 0x3E, self._script.byte()))
        self.device.negotiate(features | int(Feature.VERSION_1) * (self._script.byte() & 1))
        for queue in range(QUEUE_COUNT):
            self._attach(queue)

    # What the host does.

    def set_target(self) -> None:
        self.device.set_target(self._script.word() & 0xFFFF_FFFF)

    def hint_round(self) -> None:
        device = self.device
        steps: tuple[Callable[[], object], ...] = (
            device.begin_hint_round,
            lambda: device.hint_round.stop(60.0),
            device.hint_round.done,
        )
        self._script.choose(steps)()

    def statistics(self) -> None:
        with suppress(SettingsError):
            self.device.statistics.set_poll_interval(self._script.word())
        self.device.polling.ask()

    def wait(self) -> None:
        self._clock.advance(self._script.word() % 1000)
        self.device.tick()

    def pause_of_the_guest(self) -> None:
        """Nothing happens for a while, and what waits is dropped, or a part of it."""
        self._clock.advance(self._script.choose((0.0, 0.002, 2.0)))
        steps = self._script.byte() % 4
        while steps and self.device.inflation.wants_discard(busy=False):
            self._drop_waiting(self.device.inflation.discard_waiting)
            steps -= 1

    def drain(self) -> None:
        """Everything that waits is dropped."""
        if self._script.byte() & 1:
            self.device.ledger.expedite()
            assert self.device.inflation.wants_discard(busy=True) == (
                self.device.ledger.deadline_ns == 0
            )
        self._drop_waiting(self.device.inflation.flush)
        assert self.device.ledger.waiting_bytes == 0
        assert self.device.ledger.deadline_ns is None

    def inhibit(self) -> None:
        if self._inhibited and self._script.byte() & 1:
            self.device.inhibition.lift(self._inhibited.pop())
        else:
            reason = self._script.choose(tuple(InhibitReason))
            self.device.inhibition.inhibit(reason)
            self._inhibited.append(reason)

    def report_rate(self) -> None:
        self.device.reporting.throttle.set_rate(self._script.choose((None, 0, 4096, 1 << 40)))

    # How it is watched.

    def _process(self, queue: int, steps: int | None) -> None:
        spy = self._rings.get(queue)
        if spy is None:
            return
        before = bytes(self._world.views[0])
        pops, self._serving = spy.pops, queue
        done = 0
        while (steps is None or done < steps) and not self.device.process(queue, 0):
            done += 1
            assert done < 100 * (SIZE + 1), "the device does not come to an end"
        self._serving = None
        self._check_memory(queue, before)
        assert spy.pops - pops <= SIZE + 1, "more chains than the ring holds"
        if steps is None and self.device.queues.broken is None:
            held = self.device.statistics.held
            kept = [held] if held is not None and self._is_stats(queue) else []
            assert spy.outstanding == kept, f"{spy.outstanding} not used, held is {kept}"

    def _drop_waiting(self, drop: Callable[[], object]) -> None:
        self._may_drop_waiting = True
        drop()
        self._may_drop_waiting = False

    def _is_stats(self, queue: int) -> bool:
        return self.device.queues.roles[queue] is QueueRole.STATS

    def _check_discard(self, ranges: Ranges) -> None:
        waited = self._may_drop_waiting
        self.trace.add(f"Discard{' later' * waited}")
        if not waited:
            assert self._serving is not None, "discarded while no queue was served"
            self._check_moment(self.device.queues.roles[self._serving])
        self._oracle.check_discard(ranges, inhibited=bool(self._inhibited), waited=waited)

    def _check_fact(self, fact: Fact) -> None:
        self.trace.add(type(fact).__name__)
        match fact:
            case PagesHinted():
                assert self.device.hint_round.state.name == "START", "a hint outside a round"
                self._oracle.check_hint(fact)
            case RingBroken(_, reason):
                self.trace.add(reason.translate(_NO_DIGITS))

    def _check_moment(self, role: QueueRole | None) -> None:
        """Memory is dropped at once for these, and no other, chains."""
        if role is QueueRole.REPORTING:
            negotiated = self.device.negotiated & Feature.PAGE_POISON
            poison = self.device.config.poison.value
            assert not (negotiated and poison), "a report was discarded against the guest's poison"
        else:
            told = self.device.negotiated & Feature.MUST_TELL_HOST
            waits = told and self.device.settings.defers
            assert role is QueueRole.INFLATE, f"discard for {role}"
            assert not waits, "discarded while the guest waits for its answer"

    # What the rings tell of.

    def popped(self, queue: int, chain: Chain) -> None:
        self._oracle.popped(queue, self.device.queues.roles[queue], chain)

    def un_popped(self, queue: int, head: int) -> None:
        self._oracle.un_popped(queue, head)

    def answered(self, queue: int, head: int) -> None:
        told = bool(self.device.negotiated & Feature.MUST_TELL_HOST)
        self._oracle.answered(queue, self.device.queues.roles[queue], head, told=told)

    def _check_memory(self, queue: int, before: bytes) -> None:
        """Only what the device writes of the ring has changed."""
        second = bytes(self._world.views[1])  # a view compares byte by byte, far slower
        assert second == self._world.untouched, "written to memory that is no ring"
        after = bytes(self._world.views[0])
        gpa = self._ring_gpa(queue)
        assert before[:gpa] == after[:gpa], "the device wrote before its ring"
        end = gpa + RING_BYTES
        assert before[end:] == after[end:], "the device wrote behind its ring"
        if self._world.ring_format is RingFormat.SPLIT:
            used = self._drivers[queue].layout.used
            assert before[:used] == after[:used], "the device wrote to the driver's part"

    def _attach(self, queue: int, base: int | None = None) -> None:
        if queue in self._rings:
            return
        if base is None:
            base = self._bases.get(queue, 0)
        try:
            ring = serve(self._drivers[queue], self._world.memory, lambda: None, base=base)
        except (RingError, GuestMemoryError) as error:  # as the session is told of it
            self.trace.add(f"not attached: {str(error).translate(_NO_DIGITS)}")
            return
        self._rings[queue] = SpyRing(ring, queue, self)
        self.device.attach(queue, self._rings[queue])

    def _detach(self, queue: int) -> None:
        spy = self._rings.pop(queue, None)
        if spy is None:
            return
        base = self.device.detach(queue)
        assert base is not None
        self._bases[queue] = base
        if not self._rings:
            self._oracle.forget()

    def _collect(self, queue: int) -> None:
        """The driver takes back what was used, unless the ring is past understanding."""
        with suppress(AssertionError, KeyError):
            self._drivers[queue].collect()

    def _buffer(self, writable: bool) -> Buffer:
        gpa = (self._script.choose(PLACES) + self._script.byte() * 16) & (2**64 - 1)
        length = self._script.choose((4, 4, 8, 10, 64, 256, 0x1000, 0x10000, 0x21000, 1))
        return Buffer(gpa, length, is_writable=writable)

    def _ring_gpa(self, queue: int) -> int:
        return RINGS_GPA + RING_BYTES * queue


_M = Machine
_OPERATIONS: Final[tuple[Callable[[Machine], None], ...]] = (
    *(_M.add_chain, _M.add_chain, _M.add_chain, _M.write_pfns, _M.write_pfns, _M.kick, _M.kick),
    *(_M.kick, _M.write_bytes, _M.write_word, _M.break_ring, _M.break_descriptor, _M.read_config),
    *(_M.write_config, _M.interrupt, _M.restart, _M.stop_all, _M.reset, _M.set_target),
    *(_M.move_pages, _M.move_pages, _M.move_pages, _M.report_pages, _M.report_pages, _M.say_word),
    *(_M.hint_round, _M.hint_round, _M.statistics, _M.wait, _M.inhibit, _M.report_rate),
    *(_M.pause_of_the_guest, _M.pause_of_the_guest, _M.drain, _M.move_wide_pages),
    *(_M.deflate_all_and_more, _M.deflate_outside_memory, _M.deflate_to_write),
)
#: Between pages that are given, and pages that are dropped.
_DEFLATES: Final = (
    *(_M.deflate_all_and_more, _M.deflate_outside_memory, _M.deflate_to_write),
    *(_M.move_wide_pages, _M.move_wide_pages, _M.move_pages, _M.move_pages),
    *(_M.pause_of_the_guest, _M.pause_of_the_guest, _M.drain, _M.interrupt),
)


def run_input(place: World, raw: bytes) -> frozenset[str]:
    """Run one input; returns what the device did, as a signature. Raises: FindingError."""
    machine = Machine(place, Script(raw))
    try:
        machine.run()
    except Exception as error:
        machine.abandon()
        raise FindingError(f"{type(error).__name__}: {error}") from error
    counters = machine.device.counters
    grown = {name for name in counters.__slots__ if getattr(counters, name)}
    return frozenset(machine.trace | grown)
