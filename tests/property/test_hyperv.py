"""Our Hyper-V driver against our host, and each against a peer without manners, byte by byte.

As with virtio's pair the guest's kernel knows what each page holds, and discards really empty
memory.  Besides, everything that is said is followed: what is dropped must have been given, what
the host counts must be what the driver has in its balloon, and what goes back must come from there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.hyperv_guest import HostRig, balloon_response, message, pages_of
from tests.support.hyperv_host import DriverRig, balloon_request, unballoon_request
from tests.support.hyperv_pair import HypervPair
from tests.support.hyperv_wire import Wire
from tests.support.pair import MIB
from tests.support.turn import in_turn

from ballonet.balloon.given_memory import GivenMemory
from ballonet.errors import GuestPanicError
from ballonet.hyperv.balloon_worker import BalloonWorker
from ballonet.hyperv.host_state import HostState
from ballonet.hyperv.page_ranges import PageRangeSet, common_pages, merge_ranges, without_pages
from ballonet.hyperv.settings import HypervDriverSettings, HypervHostSettings
from ballonet.kernel.areas import Area
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import KernelSettings, ProcessKilled
from ballonet.kernel.tasks import Job
from ballonet.memory.runs import PageRuns, Ranges

MEMORY_BYTES = 64 * MIB
HISTORIES = 400
DAYS = 2  #: that it takes to see them all
STEPS_MAX = 40


class History:
    """One random history; the seed is all there is to it."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        poison = [None, None, 0, 0xAA][int(self.random.integers(4))]
        self.pair = HypervPair(
            MEMORY_BYTES,
            HypervHostSettings(post_init_wait_ns=int(self.random.integers(2)) * 10**9),
            HypervDriverSettings(pressure_report_delay=int(self.random.integers(3))),
            KernelSettings(seed, swap_bytes=2 * MIB, poison=poison),
            host_page_bytes=[4096, 4096, 65536][seed % 3],
            room=int(self.random.integers(1, 5)),
        )
        self.free_at_boot = self.pair.kernel.free_frames
        self.pages = self.free_at_boot // 2
        self.left = 0  # in the balloons of drivers that have gone
        self.areas: list[Area] = []
        self.pair.start()

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def run(self) -> None:
        for _ in range(int(self.random.integers(2, STEPS_MAX))):
            actions = self.actions()
            actions[int(self.random.integers(len(actions)))]()
            self.interleave()
        self.settle()

    def actions(self) -> list[Callable[[], object]]:
        pair = self.pair
        return [
            lambda: pair.host.set_target(int(self.random.integers(self.pages))),
            lambda: pair.host.set_target(int(self.random.integers(self.pages))),
            lambda: pair.host.set_target(int(self.random.integers(600))),
            lambda: pair.host.set_target(0),
            lambda: pair.host.set_target(1 << 40),
            self.add_area,
            self.use_area,
            self.use_area,
            self.remove_area,
            lambda: self.spawn(pair.kernel.compact()),
            lambda: self.spawn(self.hog()),
            lambda: pair.run(2.5),
            lambda: pair.run(0.03),
            self.rest,
            self.reopen,
        ]

    def interleave(self) -> None:
        """A few steps of either side, in any order."""
        pair = self.pair
        steps: list[Callable[[], object]] = [
            pair.hear,
            pair.step_host,
            lambda: pair.host.expired(busy=self.chance(0.5)),
            lambda: pair.run_guest(int(self.random.integers(1, 6))),
            lambda: pair.clock.advance_ns(int(self.random.integers(30_000_000))),
        ]
        for _ in range(int(self.random.integers(20))):
            steps[int(self.random.integers(len(steps)))]()

    def add_area(self) -> None:
        if len(self.areas) < 4:
            size = int(self.random.integers(1, 2000))
            self.areas.append(self.pair.kernel.add_area("file", size))

    def use_area(self) -> None:
        if self.areas:
            area = self.areas[int(self.random.integers(len(self.areas)))]
            start = int(self.random.integers(area.frames.size))
            pages = np.arange(start, area.frames.size)
            self.spawn(self.pair.kernel.paging.touch(area, pages, write=self.chance(0.6)))

    def remove_area(self) -> None:
        if self.areas and self.chance(0.5):
            self.spawn(self._remove(self.areas.pop()))

    def _remove(self, area: Area) -> Job[None]:
        yield None
        self.pair.kernel.remove_area(area)

    def hog(self) -> Job[None]:
        """A process that may be killed, with memory that may be swapped."""
        kernel = self.pair.kernel
        process = kernel.start_process("hog")
        area = kernel.add_area("hog", int(self.random.integers(1, self.pages)), process)
        pages = np.arange(area.frames.size)
        try:
            yield from kernel.paging.touch(area, pages, write=True, process=process)
            yield from kernel.paging.touch(area, pages, write=False, process=process)
        except ProcessKilled:
            return
        if process.is_alive:
            kernel.end_process(process)

    def rest(self) -> None:
        """The guest is frozen for a moment."""
        self.pair.scheduler.freeze()
        self.interleave()
        self.pair.scheduler.thaw()

    def reopen(self) -> None:
        if self.chance(0.2) and self.left < 1500:
            self.pair.reopen()
            self.left = self.pair.balloon_frames().size - self.pair.driver.actual_pages

    def spawn(self, job: Job[object]) -> None:
        self.pair.scheduler.spawn("action", job)

    def check_quiet(self) -> None:
        """Nothing is under way: both ends know the same."""
        pair = self.pair
        pair.run(60)
        assert pair.host.state is HostState.IDLE
        frames = set(pair.balloon_frames().tolist())
        assert pair.host._guest is not None
        runs = pair.host._guest.resizing.removed.both
        removed = pages_of(list(runs.pairs()))
        assert removed == pair.wire.given
        assert removed <= frames
        assert len(frames) == len(removed) + self.left == pair.kernel.hidden_frames
        assert pair.host.actual_pages == pair.driver.actual_pages == len(removed)

    def settle(self) -> None:
        """Everything comes to its end, and nothing is missing."""
        pair, kernel = self.pair, self.pair.kernel
        self.check_quiet()
        pair.host.set_target(0)
        self.check_quiet()
        assert pair.host.actual_pages == 0
        assert pair.driver.balloon.ignored_pages == 0
        for area in list(kernel.areas.values()):
            pair.do(kernel.paging.touch(area, np.arange(area.frames.size), write=False))
            kernel.remove_area(area)
        assert kernel.free_frames == self.free_at_boot - self.left
        assert kernel.table.count(Use.HELD) == 0
        assert kernel.swap.used == 0
        counters = pair.host.counters
        assert counters.malformed_messages == counters.unexpected_messages == 0
        assert counters.duplicate_pages == counters.outside_pages == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", in_turn(range(4), DAYS))
def test_no_history_loses_a_byte_or_leaks_a_page(part: int) -> None:
    share = HISTORIES // 4
    for seed in range(part * share, (part + 1) * share):
        try:
            History(seed).run()
        except Exception as error:
            raise AssertionError(f"history {seed}") from error


def test_the_oracle_finds_a_host_that_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GivenMemory, "take_back", lambda *_: None)
    assert _finds_something()


def test_the_oracle_finds_a_driver_that_gives_what_it_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle = BalloonWorker._settle
    monkeypatch.setattr(
        BalloonWorker, "_settle", lambda self, frames, **_: settle(self, frames[1:], is_sent=True)
    )
    assert _finds_something()


def _finds_something() -> bool:
    for seed in range(100):
        try:
            History(seed).run()
        except (GuestPanicError, AssertionError):
            return True
    return False


# A host without manners.


@pytest.mark.parametrize("seed", range(40))
def test_no_host_makes_the_guest_lose_a_byte(seed: int) -> None:
    """It drops what it was given, gives back what it likes, and says anything in between."""
    random = np.random.default_rng(seed)
    kernel_settings = KernelSettings(seed, swap_bytes=2 * MIB)
    rig = DriverRig(HypervDriverSettings(0), kernel=kernel_settings).start()
    kernel = rig.kernel
    area = kernel.add_area("file", 3000)
    given: set[int] = set()
    for _ in range(60):
        rig.room = int(random.integers(1, 4))
        first, pages = int(random.integers(1 << 14)), int(random.integers(1 << 10))
        chosen = sorted(given)[: int(random.integers(100))]
        back = [(first, pages), *((page, 1) for page in chosen)]
        said = [
            balloon_request(int(random.integers(2000))),
            balloon_request(2**32 - 1),
            unballoon_request(back, more=bool(random.integers(2))),
            message(int(random.integers(16)), random.bytes(int(random.integers(64)))),
            random.bytes(int(random.integers(40))),
        ]
        raw = said[int(random.integers(len(said)))]
        given -= _named(raw, 8)  # from now on the guest may use them
        rig.host_says(raw)
        rig.scheduler.spawn("use", kernel.paging.touch(area, np.arange(3000), write=True))
        rig.pass_time(float(random.random()) / 20)
        for response in rig.sent:
            given |= _named(response, 7)
        rig.sent.clear()
        kernel.memory.fill(np.array(sorted(given), np.int64), 0)
    rig.room = 1 << 30
    rig.pass_time(1)
    for response in rig.sent:
        given |= _named(response, 7)
    assert given == set(rig.balloon_frames().tolist())
    rig.host_says(unballoon_request([(page, 1) for page in sorted(given)[:8000]], more=True))
    assert rig.driver.actual_pages == max(0, len(given) - 8000)
    rig.scheduler.spawn("look", kernel.paging.touch(area, np.arange(3000), write=False))
    rig.pass_time(1)


def _named(raw: bytes, kind: int) -> set[int]:
    """Pages that a message of this kind names, if it can be read."""
    if len(raw) < 16 or struct.unpack_from("<HH", raw)[0] != kind:
        return set()
    size, _, _, word = struct.unpack_from("<HIII", raw, 2)
    count = word >> 1 if kind == 7 else word
    if not 16 + 8 * count <= size <= len(raw):
        return set()
    words = np.frombuffer(raw, "<u8", count, 16).tolist()
    pairs = [(word & (1 << 40) - 1, min(word >> 40, 1 << 15)) for word in words]
    return {page for page in pages_of(pairs) if page < MEMORY_BYTES // 4096}


# A guest without manners.

SMALL = 600
RANGE = st.tuples(
    st.one_of(st.integers(0, SMALL + 50), st.integers(0, (1 << 40) - 1)),
    st.one_of(st.integers(0, 80), st.integers(0, (1 << 24) - 1)),
)
SAID = st.one_of(
    st.builds(balloon_response, st.lists(RANGE, max_size=6), more=st.booleans()),
    st.builds(message, st.integers(0, 16), st.binary(max_size=48)),
    st.binary(max_size=40),
    st.just(message(9)),
)
DONE = st.one_of(
    st.tuples(st.just("target"), st.integers(0, 2 * SMALL)),
    st.tuples(st.just("wait"), st.floats(0, 3)),
    st.tuples(st.just("room"), st.integers(0, 3)),
    st.tuples(st.just("say"), SAID),
    st.tuples(st.just("say"), SAID),
    st.tuples(st.just("reset"), st.booleans()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(DONE, max_size=40))
def test_no_guest_makes_the_host_drop_what_was_not_given(done: list[tuple[str, object]]) -> None:
    rig = HostRig(pages=SMALL).open()
    wire = Wire(rig.memory.table, SMALL)
    discard = rig.memory.discard

    def watched(ranges: Ranges) -> object:
        wire.check_drop(ranges)
        return discard(ranges)

    rig.memory.discard = watched  # type: ignore[method-assign,assignment]

    def follow() -> None:
        for raw in rig.sent:
            wire.host_said(raw)
        rig.sent.clear()

    for what, value in done:
        match what, value:
            case "target", int():
                rig.host.set_target(value)
            case "wait", float():
                rig.clock.advance(value)
                rig.host.expired()
            case "room", int():
                rig.room = value
            case "say", bytes():
                wire.host_heard(value)
                rig.guest_says(value)
            case "reset", bool():
                (rig.host.reset_system if value else rig.host.detach)()
                wire.given.clear()
                rig.room = 3
                rig.open()
        follow()
        assert 0 <= rig.host.actual_pages <= SMALL
    rig.room = 1 << 30
    rig.host.detach()
    rig.open()  # the next guest finds a host in order
    rig.host.set_target(10)
    rig.guest_says(balloon_response([(20, 10)]))
    assert rig.host.actual_pages == 10


# Sets of ranges.

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=8)


def _runs(pairs: list[tuple[int, int]]) -> PageRuns:
    array = np.array(pairs, np.int64).reshape(-1, 2)
    return PageRuns(array[:, 0], array[:, 1])


def _is_true(runs: PageRuns) -> bool:
    """Ascending, never touching, none empty."""
    ends = runs.first_pfns + runs.pages
    return bool((runs.pages > 0).all() and (runs.first_pfns[1:] > ends[:-1]).all())


@given(PAIRS, PAIRS)
def test_ranges_are_sets_of_pages(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    mine, theirs = merge_ranges(_runs(one)), merge_ranges(_runs(other))
    for found, expected in (
        (mine, pages_of(one)),
        (common_pages(mine, theirs), pages_of(one) & pages_of(other)),
        (without_pages(mine, theirs), pages_of(one) - pages_of(other)),
    ):
        assert _is_true(found)
        assert pages_of(list(found.pairs())) == expected


@given(st.lists(st.one_of(PAIRS, st.integers(1, 9)), max_size=12))
def test_a_set_of_ranges_counts_each_page_once(steps: list[list[tuple[int, int]] | int]) -> None:
    ranges, pages = PageRangeSet(), set[int]()
    for step in steps:
        if isinstance(step, int):
            taken = ranges.take_lowest(step)
            assert (taken is None) == (not pages)
            if taken is not None:
                assert taken[0] == min(pages)
                assert 0 < taken[1] <= step
                pages -= pages_of([taken])
        else:
            fresh = ranges.add(merge_ranges(_runs(step)))
            assert pages_of(list(fresh.pairs())) == pages_of(step) - pages
            pages |= pages_of(step)
        assert _is_true(ranges.runs)
        assert pages_of(list(ranges.runs.pairs())) == pages
        assert ranges.pages == len(pages)
