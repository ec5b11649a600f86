"""Our driver against our device, thousands of histories, every byte watched.

The guest's kernel knows what each of its pages holds and looks at it whenever it uses, swaps or
moves the page; the device's discards really empty memory.  So a page that is dropped while the
guest has it is found, and at the end every page must be back where it came from.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.support import moving
from tests.support.moving import come_to_rest, move, saved
from tests.support.pair import MIB, DeviceMemory, Pair
from tests.support.turn import in_turn

from ballonet.device.balloon import Balloon, BalloonSettings
from ballonet.device.poison import PagePoison
from ballonet.device.state import restore_state, state_of
from ballonet.driver.size_worker import SizeWorker
from ballonet.errors import GuestPanicError, RingError
from ballonet.kernel.areas import Area
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import KernelSettings, ProcessKilled
from ballonet.kernel.tasks import Job
from ballonet.memory.runs import DiscardResult, Ranges
from ballonet.virtio.features import BALLOON_FEATURES, RING_FEATURES, Feature

MEMORY_BYTES = 24 * MIB
HISTORIES = 1200
DAYS = 2  #: that it takes to see them all
MOVED_HISTORIES = 100
STEPS_MAX = 40


class History:
    """One random history; the seed is all there is to it."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        features = RING_FEATURES | Feature.RING_PACKED
        for bit in BALLOON_FEATURES:
            if self.chance(0.8):
                features |= bit
        if self.chance(0.5):
            features &= ~Feature.RING_PACKED
        if self.chance(0.3):
            features &= ~Feature.EVENT_IDX
        poison = [None, None, 0, 0xAA][int(self.random.integers(4))]
        page_bytes = 16384 if self.chance(0.2) else 4096
        self.pair = Pair(
            MEMORY_BYTES,
            BalloonSettings(
                features,
                defers=self.chance(0.7),
                host_page_bytes=[4096, 4096, 65536][seed % 3],
            ),
            kernel=KernelSettings(
                seed, swap_bytes=2 * MIB, poison=poison, reporting_bytes=256 << 10
            ),
            page_bytes=page_bytes,
        )
        self.free_at_boot = self.pair.kernel.free_frames
        self.pages = (
            self.free_at_boot * page_bytes // 4096 * 6 // 10
        )  # more would be the guest's end
        self.areas: list[Area] = []
        self.moves = 0
        self.pair.driver.start()

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def run(self) -> None:
        for _ in range(int(self.random.integers(2, STEPS_MAX))):
            actions = self.actions()
            actions[int(self.random.integers(len(actions)))]()
            self.interleave()
        self.settle()

    def run_and_move(self, moves: int) -> None:
        """Go on elsewhere in the middle of it, again and again."""
        for _ in range(moves):
            for _ in range(int(self.random.integers(1, 10))):
                actions = self.actions()
                actions[int(self.random.integers(len(actions)))]()
                self.interleave()
            self.move(1.0)
        self.settle()

    def actions(self) -> list[Callable[[], object]]:
        pair = self.pair
        return [
            lambda: pair.set_target(int(self.random.integers(self.pages))),
            lambda: pair.set_target(int(self.random.integers(self.pages))),
            lambda: pair.set_target(0),
            self.add_area,
            self.use_area,
            self.use_area,
            self.remove_area,
            lambda: self.spawn(pair.kernel.compact()),
            lambda: self.spawn(self.hog()),
            pair.device.begin_hint_round,
            lambda: pair.device.hint_round.stop(60.0),
            pair.device.hint_round.done,
            pair.device.polling.ask,
            lambda: pair.run(2.5),
            lambda: pair.run(0.3),
            self.replace_device,
            self.freeze,
            lambda: self.move(0.2),
        ]

    def interleave(self) -> None:
        """A few steps of either side, in any order."""
        for _ in range(int(self.random.integers(12))):
            queues = self.pair.device_can_go_on()
            if self.chance(0.2):
                self.pair.discard_waiting()
            if queues and self.chance(0.6):
                self.pair.step_device(queues[int(self.random.integers(len(queues)))])
            else:
                self.pair.run_guest(int(self.random.integers(1, 6)))

    def add_area(self) -> None:
        if len(self.areas) < 4:
            size = int(self.random.integers(1, 400))
            self.areas.append(self.pair.kernel.add_area("file", size))

    def use_area(self) -> None:
        if self.areas:
            area = self.areas[int(self.random.integers(len(self.areas)))]
            start = int(self.random.integers(area.frames.size))
            pages = np.arange(start, area.frames.size)
            self.spawn(self.pair.kernel.paging.touch(area, pages, write=self.chance(0.6)))

    def remove_area(self) -> None:
        if self.areas and self.chance(0.5):
            area = self.areas.pop()
            self.spawn(self._remove(area))

    def _remove(self, area: Area) -> Job[None]:
        yield None
        self.pair.kernel.remove_area(area)

    def hog(self) -> Job[None]:
        """A process that may be killed, with memory that may be swapped."""
        kernel = self.pair.kernel
        process = kernel.start_process("hog")
        area = kernel.add_area("hog", int(self.random.integers(1, self.pages // 2)), process)
        pages = np.arange(area.frames.size)
        try:
            yield from kernel.paging.touch(area, pages, write=True, process=process)
            yield from kernel.paging.touch(area, pages, write=False, process=process)
        except ProcessKilled:
            return
        if process.is_alive:
            kernel.end_process(process)

    def replace_device(self) -> None:
        """The device's process is replaced in the middle of whatever it does."""
        pair = self.pair
        state = state_of(pair.device)
        pair.stop_device()
        pair.device = Balloon(pair.device.settings, pair.clock)
        restore_state(pair.device, state)
        pair.rejoin()
        pair.transport.reconnect()
        pair.driver.reconnected()
        for queue in pair.driver.queues.values():
            pair.driver.called(queue.number)

    def freeze(self) -> None:
        if self.chance(0.3):
            self.pair.run(1)
            self.pair.do(self.pair.driver.freeze())
            self.pair.do(self.pair.driver.restore())

    def move(self, share: float) -> None:
        """The guest goes on elsewhere, or where it is."""
        if self.chance(share):
            self.pair.scheduler.freeze()
            self.interleave()
            if come_to_rest(self.pair):
                if self.chance(0.2):  # nothing comes of it
                    saved(self.pair)
                    self.pair.scheduler.thaw()
                    return
                self.pair = move(self.pair)
                kernel = self.pair.kernel
                self.areas = [kernel.areas[area.number] for area in self.areas]
                self.moves += 1

    def spawn(self, job: Job[object]) -> None:
        self.pair.scheduler.spawn("action", job)

    def settle(self) -> None:
        """Everything comes to its end, and nothing is missing."""
        pair, kernel = self.pair, self.pair.kernel
        pair.set_target(0)
        pair.device.hint_round.done()
        pair.run(30)
        assert pair.device.actual_pages == 0
        assert pair.driver.size.pages.count == 0
        for area in list(kernel.areas.values()):
            pair.do(kernel.paging.touch(area, np.arange(area.frames.size), write=False))
            kernel.remove_area(area)
        pair.do(pair.driver.remove())
        assert kernel.free_frames == self.free_at_boot
        assert kernel.hidden_frames == 0
        assert kernel.swap.used == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", in_turn(range(8), DAYS))
def test_no_history_loses_a_byte_or_leaks_a_page(part: int) -> None:
    share = HISTORIES // 8
    for seed in range(part * share, (part + 1) * share):
        try:
            History(seed).run()
        except Exception as error:
            raise AssertionError(f"history {seed}") from error


def test_no_guest_that_goes_on_elsewhere_loses_a_byte_or_leaks_a_page() -> None:
    moves = 0
    for seed in range(MOVED_HISTORIES):
        history = History(seed)
        try:
            history.run_and_move(3)
        except Exception as error:
            raise AssertionError(f"history {seed}") from error
        moves += history.moves
    assert moves > 1.5 * MOVED_HISTORIES


def test_the_oracle_finds_a_move_that_loses_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = moving.empty_copy

    def lose_one(pair: Pair, memory: memoryview | None) -> Pair:
        there = copy(pair, memory)
        there.kernel.memory.fill(pair.kernel.table.used_as(Use.CACHE)[-1:], 0)
        return there

    monkeypatch.setattr(moving, "empty_copy", lose_one)

    def move_many() -> None:
        for seed in range(20):
            History(seed).run_and_move(3)

    with pytest.raises(GuestPanicError, match="a page of"):
        move_many()


def test_the_oracle_finds_a_device_that_discards_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[Ranges] = []
    discard = DeviceMemory.discard

    def discard_the_one_before(self: DeviceMemory, ranges: Ranges) -> DiscardResult:
        late.append(ranges)
        return discard(self, late.pop(0)) if len(late) > 1 else DiscardResult()

    monkeypatch.setattr(DeviceMemory, "discard", discard_the_one_before)
    assert _finds_something()


def test_the_oracle_finds_a_device_that_ignores_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PagePoison, "allows_discard", lambda _: True)
    assert _finds_something()


def test_the_oracle_finds_a_driver_that_forgets_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SizeWorker, "leak_all", lambda _: iter(()))
    assert _finds_something()


def _finds_something() -> bool:
    for seed in range(200):
        try:
            History(seed).run()
        except (GuestPanicError, AssertionError, RingError):  # the lost byte may be a ring's
            return True
    return False
