"""VMware's two ends against each other, and each against one that means no good.

The guest's kernel knows what each of its pages holds and looks at it whenever it uses, swaps or
moves the page; the host's discards really empty memory.  So a page that is dropped while the guest
has it is found, and at the end every page must be back where it came from.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.vmware_host import VmwareHostFuzz
from tests.support.turn import in_turn
from tests.support.vmware_pair import MIB, VmwarePair

from ballonet.balloon.given_memory import GivenMemory
from ballonet.balloon.inhibition import InhibitReason
from ballonet.errors import GuestPanicError
from ballonet.kernel.areas import Area
from ballonet.kernel.kernel import KernelSettings, ProcessKilled
from ballonet.kernel.tasks import Job
from ballonet.vmware.balloon_frames import BalloonFrames
from ballonet.vmware.calls import Answer, Call, Capability, Command, Status
from ballonet.vmware.driver import VmwareDriverSettings
from ballonet.vmware.host import VmwareHost, VmwareHostSettings
from ballonet.vmware.lock_policy import RefusedPages
from ballonet.vmware.locked_pages import LockedPages

MEMORY_BYTES = 24 * MIB
PAGES = MEMORY_BYTES >> 12
HISTORIES = 320
DAYS = 2  #: that it takes to see them all
HOSTILE_HISTORIES = 80
STEPS_MAX = 40
REASONS = (Status.PPN_PINNED, Status.BUSY, Status.PPN_INVALID, Status.PPN_NOTNEEDED)


class History:
    """One random history; the seed is all there is to it."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        offered = Capability.BASIC
        for bit, share in (
            (Capability.BATCHED, 0.9),
            (Capability.BATCHED_2M, 0.7),
            (Capability.DOORBELL, 0.7),
            (Capability.TARGET_64, 0.5),
        ):
            if self.chance(share):
                offered |= bit
        self.pair = self.make(
            VmwareHostSettings(offered),
            VmwareDriverSettings(shrinks=self.chance(0.5)),
            KernelSettings(
                seed,
                swap_bytes=2 * MIB * int(self.chance(0.7)),
                poison=[None, None, 0, 0xAA][int(self.random.integers(4))],
            ),
            [4096, 4096, 65536][seed % 3],
        )
        self.policy = RefusedPages()
        self.pair.host.policy = self.policy
        self.pair.is_slow = self.chance(0.7)
        self.areas: list[Area] = []
        self.pair.driver.start()

    def make(
        self,
        host: VmwareHostSettings,
        driver: VmwareDriverSettings,
        kernel: KernelSettings,
        host_page_bytes: int,
    ) -> VmwarePair:
        return VmwarePair(MEMORY_BYTES, host, driver, kernel, host_page_bytes=host_page_bytes)

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
            self.set_target,
            self.set_target,
            self.set_target,
            lambda: pair.host.set_target(0),
            self.add_area,
            self.use_area,
            self.use_area,
            self.remove_area,
            lambda: self.spawn(pair.kernel.compact()),
            lambda: self.spawn(self.hog()),
            lambda: self.spawn(pair.driver.shrink()),
            self.reset,
            self.refuse,
            self.policy.allow,
            lambda: pair.run(2.5),
            lambda: pair.run(0.3),
            self.come_to_rest,
            self.reload,
            self.restart,
        ]

    def interleave(self) -> None:
        """A few steps of either end, in any order."""
        for _ in range(int(self.random.integers(12))):
            if self.chance(0.2):
                self.pair.host.given.flush()
            if self.chance(0.4):
                self.pair.answer_one()
            else:
                self.pair.run_guest(int(self.random.integers(1, 6)))
            if self.chance(0.1):
                self.pair.clock.advance(0.5)

    def set_target(self) -> None:
        most = 2**40 if self.chance(0.05) else self.pair.free_at_boot
        self.pair.host.set_target(int(self.random.integers(most)))

    def reset(self) -> None:
        """With pages that are not yet dropped, and a driver that is about to begin anew."""
        if self.chance(0.5):
            self.set_target()
            self.rush()
            self.use_area()
        self.pair.host.reset_guest()
        if self.chance(0.5):
            self.rush()

    def rush(self) -> None:
        """The host has no time to drop memory, and for no START."""
        self.pair.is_slow = True
        for _ in range(60):
            self.pair.run_guest()
            if self.pair.asked and self.pair.asked[0].command == Command.START:
                break
            if not self.pair.answer_one():
                self.pair.clock.advance(0.5)

    def refuse(self) -> None:
        """Some pages are pinned, or stay locked, for a while."""
        pages = self.random.integers(PAGES, size=int(self.random.integers(1, 200))).tolist()
        refuse = self.policy.refuse_lock if self.chance(0.5) else self.policy.refuse_unlock
        refuse(pages, REASONS[int(self.random.integers(len(REASONS)))])

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
            self.spawn(self._remove(self.areas.pop()))

    def _remove(self, area: Area) -> Job[None]:
        yield None
        self.pair.kernel.remove_area(area)

    def hog(self) -> Job[None]:
        """A process that may be killed, with memory that may be swapped."""
        kernel = self.pair.kernel
        process = kernel.start_process("hog")
        area = kernel.add_area("hog", int(self.random.integers(1, PAGES // 4)), process)
        pages = np.arange(area.frames.size)
        try:
            yield from kernel.paging.touch(area, pages, write=True, process=process)
            yield from kernel.paging.touch(area, pages, write=False, process=process)
        except ProcessKilled:
            return
        if process.is_alive:
            kernel.end_process(process)

    def come_to_rest(self) -> None:
        """Both ends agree whenever nothing is under way."""
        self.pair.run(2.5)
        if self.pair.host.is_running and not self.pair.driver.calls.reset_required:
            self.pair.check_agreement()

    def reload(self) -> None:
        """The module is unloaded and loaded again."""
        if self.chance(0.3):
            self.leave()
            self.pair.load()
            self.pair.driver.start()

    def restart(self) -> None:
        """The guest is reset, and its next kernel begins in the same memory."""
        if self.chance(0.3):
            self.pair.boot()
            self.areas.clear()
            self.pair.driver.start()

    def spawn(self, job: Job[object]) -> None:
        self.pair.scheduler.spawn("action", job)

    def settle(self) -> None:
        """Everything comes to its end, and nothing is missing."""
        pair = self.pair
        self.policy.allow()
        pair.host.set_target(0)
        pair.run(10)
        assert pair.host.is_running
        assert pair.driver.actual_pages == 0
        assert pair.host.broken is None
        pair.check_agreement()
        self.finish()

    def finish(self) -> None:
        """All programs end, and the driver leaves."""
        kernel = self.pair.kernel
        self.pair.run(10)
        for area in list(kernel.areas.values()):
            self.pair.do(kernel.paging.touch(area, np.arange(area.frames.size), write=False))
            kernel.remove_area(area)
        self.leave()
        assert kernel.free_frames == self.pair.free_at_boot
        assert kernel.hidden_frames == 0
        assert kernel.swap.used == 0

    def leave(self) -> None:
        self.pair.leave()


class LyingPair(VmwarePair):
    """A host whose word is worth nothing, half of the time; it drops no memory."""

    random: np.random.Generator

    def answer(self, call: Call) -> Answer:
        lie = self.random.random()
        if lie < 0.5:
            return self.host.call(*call)
        if lie < 0.9 and call.command in (6, 7, 8, 9):
            page = np.frombuffer(self.host_memory.view(call.arg1 << 12, 4096), np.uint64)
            page[:] = self.random.integers(2**64 - 1, size=512, dtype=np.uint64, endpoint=True)
            if lie < 0.7:  # otherwise next to nothing is accepted
                page &= np.uint64(2**64 - 32)
        return Answer(self._number(0, 0, 0, 1, 7, 8, 0x0300_0000), self._number(0, 300, 5000))

    def _number(self, *likely: int) -> int:
        if self.random.random() < 0.1:
            return int(self.random.integers(2**64 - 1, dtype=np.uint64))
        return int(self.random.choice(likely))


class HostileHistory(History):
    """With a host that lies: the guest goes on, and has all of its memory in the end."""

    def make(
        self,
        host: VmwareHostSettings,
        driver: VmwareDriverSettings,
        kernel: KernelSettings,
        host_page_bytes: int,
    ) -> VmwarePair:
        pair = LyingPair(MEMORY_BYTES, host, driver, kernel, host_page_bytes=host_page_bytes)
        pair.random = self.random
        pair.host.given.inhibition.inhibit(InhibitReason.OPERATOR)
        return pair

    def come_to_rest(self) -> None:
        self.pair.run(2.5)

    def leave(self) -> None:
        self.pair.do(self.pair.driver.stop())
        assert self.pair.driver.actual_pages == 0

    def settle(self) -> None:
        self.finish()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", in_turn(range(8), DAYS))
def test_no_history_loses_a_byte_or_leaks_a_page(part: int) -> None:
    share = HISTORIES // 8
    for seed in range(part * share, (part + 1) * share):
        try:
            History(seed).run()
        except Exception as error:
            raise AssertionError(f"history {seed}") from error


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(2))
def test_a_host_that_lies_cannot_hurt_the_guest(part: int) -> None:
    share = HOSTILE_HISTORIES // 2
    for seed in range(part * share, (part + 1) * share):
        try:
            HostileHistory(seed).run()
        except Exception as error:
            raise AssertionError(f"history {seed}") from error


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_a_guest_that_calls_what_it_likes_is_answered_as_the_model_says(script: bytes) -> None:
    with VmwareHostFuzz().ready() as run:
        run(script)


def test_the_oracle_finds_a_host_that_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GivenMemory, "take_back", lambda *_: None)
    assert _finds_something()


def test_the_oracle_finds_a_host_that_resets_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def reset_late(self: VmwareHost) -> None:
        self._is_resetting = True

    monkeypatch.setattr(VmwareHost, "reset_guest", reset_late)
    assert _finds_something()


def test_the_oracle_finds_a_driver_that_forgets_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BalloonFrames, "put_back", lambda *_: None)
    assert _finds_something()


def test_the_oracle_finds_a_host_that_forgets_its_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LockedPages, "unlock", lambda *_: None)
    assert _finds_something()


def _finds_something() -> bool:
    for seed in range(200):
        try:
            History(seed).run()
        except (GuestPanicError, AssertionError):
            return True
    return False
