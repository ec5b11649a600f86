"""VMware's driver: when it asks, when it begins anew, and what it does for the kernel."""

import numpy as np
import pytest
from tests.support.vmware_pair import MIB, VmwarePair

from ballonet.errors import GuestError
from ballonet.kernel.buddy import MigrateType
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import Kernel
from ballonet.kernel.physical import MemoryPiece, PhysicalMemory
from ballonet.kernel.tasks import Job, Scheduler
from ballonet.vmware.calls import (
    ALL_CAPABILITIES,
    INVALID_ID,
    Answer,
    Call,
    Capability,
    Command,
    Status,
)
from ballonet.vmware.driver import VmwareDriver, VmwareDriverSettings
from ballonet.vmware.host import VmwareHostSettings
from ballonet.vmware.lock_policy import RefusedPages

NO_BLOCKS = VmwareHostSettings(ALL_CAPABILITIES & ~Capability.BATCHED_2M)
BASIC = VmwareHostSettings(Capability.BASIC)
NO_DOORBELL = VmwareHostSettings(ALL_CAPABILITIES & ~Capability.DOORBELL)


def started(
    host: VmwareHostSettings = VmwareHostSettings(),  # noqa: B008 - immutable
    driver: VmwareDriverSettings = VmwareDriverSettings(),  # noqa: B008 - immutable
    memory_bytes: int = 64 * MIB,
) -> VmwarePair:
    pair = VmwarePair(memory_bytes, host, driver)
    pair.driver.start()
    pair.run(0.1)
    return pair


def commands(pair: VmwarePair) -> list[int]:
    return [call.command for call in pair.calls]


def test_a_driver_introduces_itself() -> None:
    pair = started()
    limit = pair.kernel.managed_frames
    assert pair.calls == [
        Call(Command.VMCI_DOORBELL_SET, INVALID_ID, INVALID_ID),
        Call(Command.START, 0b111110, 0),
        Call(Command.VMCI_DOORBELL_SET, 3, 1),
        Call(Command.GUEST_ID, 1, 0),
        Call(Command.GET_TARGET, limit, 0),
    ]
    assert pair.host.is_running
    assert pair.driver.describe()["is-resetting"] is False


def test_a_driver_that_is_granted_little_does_with_it() -> None:
    pair = started(BASIC)
    assert commands(pair) == [10, Command.START, Command.GUEST_ID, Command.GET_TARGET]
    pair.go_to(20)
    assert pair.host.locked.small == 20
    pair.check_agreement()
    pair.go_to(0)
    assert set(commands(pair)) == {0, 1, 2, 3, 4, 10}


def test_a_driver_asks_once_a_second() -> None:
    pair = started(NO_DOORBELL)
    pair.calls.clear()
    pair.run(10)
    assert commands(pair) == [Command.GET_TARGET] * 10


def test_a_driver_that_is_rung_asks_at_once() -> None:
    pair = started()
    pair.run(0.5)
    pair.calls.clear()
    pair.go_to(512, seconds=0.01)
    assert pair.rings == [(3, 1)]
    assert pair.driver.actual_pages == 512
    pair.calls.clear()
    pair.run(0.95)
    assert pair.calls == []
    pair.run(0.1)
    assert commands(pair) == [Command.GET_TARGET]


def test_a_doorbell_that_is_not_set_is_not_heard() -> None:
    pair = started(NO_DOORBELL)
    pair.calls.clear()
    pair.driver.ring_doorbell()
    pair.run(0.1)
    assert pair.calls == []


def test_a_balloon_shrinks_by_less_than_a_block_only_to_nothing() -> None:
    pair = started(NO_BLOCKS)
    pair.go_to(1000)
    pair.go_to(489)
    assert pair.driver.actual_pages == 1000
    pair.go_to(488)
    assert pair.driver.actual_pages == 488
    pair.go_to(1)
    assert pair.driver.actual_pages == 488
    pair.go_to(0)
    assert pair.driver.actual_pages == 0


def test_a_balloon_in_blocks_overshoots_and_stays() -> None:
    pair = started()
    pair.go_to(513)
    assert pair.driver.actual_pages == 1024
    calls = len(pair.calls)
    pair.run(5)
    assert set(commands(pair)[calls:]) == {Command.GET_TARGET}
    pair.check_agreement()


def test_a_host_that_wants_a_new_beginning_gets_it() -> None:
    pair = started(NO_BLOCKS)
    pair.go_to(700)
    pair.calls.clear()
    pair.host.reset_guest()
    pair.run(0.1)
    assert pair.driver.describe()["is-resetting"] is True
    assert pair.driver.actual_pages == 700
    pair.run(1)
    assert commands(pair)[:6] == [Command.GET_TARGET, 10, Command.START, 10, 4, Command.GET_TARGET]
    assert Command.BATCHED_UNLOCK not in commands(pair)
    assert pair.driver.actual_pages == 700
    pair.check_agreement()
    assert pair.driver.stats["reset"] == 2


def test_pages_are_freed_before_the_driver_starts_again() -> None:
    pair = started(NO_BLOCKS)
    pair.go_to(700)
    free = pair.kernel.free_frames
    pair.host.reset_guest()
    seen: list[tuple[int, int]] = []

    def note(call: Call) -> Answer:
        seen.append((call.command, pair.kernel.free_frames))
        return pair.host.call(*call)

    pair.answer = note  # type: ignore[method-assign]
    pair.run(1.5)
    at_start = next(frames for command, frames in seen if command == Command.START)
    assert at_start == free + 700 + 1  # and the batch page


def test_a_start_that_fails_is_tried_again_a_second_later() -> None:
    pair = VmwarePair()
    refusals = 3
    answer = pair.host.call

    def refuse(call: Call) -> Answer:
        nonlocal refusals
        if call.command == Command.START and refusals:
            refusals -= 1
            return Answer(Status.BUSY, 0)
        return answer(*call)

    pair.answer = refuse  # type: ignore[method-assign]
    pair.host.set_target(100)
    pair.driver.start()
    pair.run(2.5)
    assert not pair.host.is_running
    assert pair.driver.actual_pages == 0
    pair.run(1)
    assert pair.driver.actual_pages > 0


def test_a_driver_without_memory_for_batches_takes_its_start_back() -> None:
    pair = VmwarePair()
    taken = []
    for order in (10, 0):
        while (head := pair.kernel.take_block(order, Use.HELD, MigrateType.UNMOVABLE)) is not None:
            taken.append(np.arange(head, head + (1 << order)))
    pair.driver.start()
    pair.run(0.1)
    starts = [call.arg1 for call in pair.calls if call.command == Command.START]
    assert starts == [0b111110, 0]
    assert not pair.host.is_running
    pair.kernel.free(np.concatenate(taken))
    pair.go_to(100, seconds=2)
    assert pair.host.is_running
    pair.check_agreement()


def test_a_doorbell_that_cannot_be_set_is_removed() -> None:
    pair = VmwarePair()
    pair.answer = lambda call: (  # type: ignore[method-assign]
        Answer(Status.CMD_INVALID, 0) if call.command == 10 else pair.host.call(*call)
    )
    pair.driver.start()
    pair.run(0.1)
    assert [call for call in pair.calls if call.command == 10] == [
        Call(10, INVALID_ID, INVALID_ID),
        Call(10, 3, 1),
        Call(10, INVALID_ID, INVALID_ID),
    ]
    pair.driver.ring_doorbell()
    assert pair.driver.stats["doorbell"] == 0


def test_a_driver_that_leaves_frees_everything_and_tells_nobody() -> None:
    pair = started()
    pair.go_to(1000)
    pair.calls.clear()
    pair.leave()
    assert pair.calls == [
        Call(Command.VMCI_DOORBELL_SET, INVALID_ID, INVALID_ID),
        Call(Command.START, 0, 0),
    ]
    assert pair.kernel.free_frames == pair.free_at_boot
    assert pair.kernel.compaction.move_balloon_page is None
    pair.go_to(50, seconds=5)
    assert pair.driver.actual_pages == 0
    assert len(pair.calls) == 2


def test_pages_are_free_only_after_the_host_has_forgotten_them() -> None:
    pair = started(NO_BLOCKS)
    pair.go_to(100)
    free = pair.kernel.free_frames
    pair.is_slow = True
    pair.scheduler.spawn("stop", pair.driver.stop())
    for _ in range(5):
        pair.run_guest()
        assert pair.kernel.free_frames == free
        if pair.asked[0].command == Command.START:
            break
        pair.answer_one()
    pair.run()
    assert pair.kernel.free_frames == pair.free_at_boot


def test_a_driver_that_leaves_while_it_grows_stops_growing() -> None:
    pair = started(BASIC)
    pair.is_slow = True
    pair.host.set_target(5000)
    pair.clock.advance(1)
    for _ in range(20):
        pair.run_guest()
        pair.answer_one()
    pair.is_slow = False
    pair.leave()
    assert pair.kernel.free_frames == pair.free_at_boot
    assert len(pair.calls) < 60


def test_a_module_can_be_loaded_again() -> None:
    pair = started()
    pair.go_to(600)
    pair.leave()
    pair.load()
    pair.driver.start()
    pair.run(1)
    assert pair.driver.actual_pages == 1024
    pair.check_agreement()


def test_a_page_is_moved_by_unlocking_it_first() -> None:
    """The other way round, a host that has what it wants would not take one more."""
    pair = started(NO_BLOCKS)
    pair.go_to(10)
    source, target = int(pair.driver.balloon.heads(1)[3]), _free_frame(pair)
    pair.calls.clear()
    assert pair.do(pair.driver.move(source, target), 0.1) is True
    assert commands(pair)[:2] == [Command.BATCHED_UNLOCK, Command.BATCHED_LOCK]
    assert target in pair.driver_pfns()
    assert source not in pair.driver_pfns()
    assert pair.kernel.table.use[source] == Use.NONE
    pair.check_agreement()


def test_a_page_that_is_not_unlocked_is_not_moved() -> None:
    pair = started(NO_BLOCKS)
    pair.go_to(10)
    source, target = int(pair.driver.balloon.heads(1)[3]), _free_frame(pair)
    _policy(pair).refuse_unlock([source], Status.BUSY)
    assert pair.do(pair.driver.move(source, target), 0.1) is False
    assert source in pair.driver_pfns()
    assert pair.driver.actual_pages == 10
    pair.kernel.free(np.array([target]))
    pair.check_agreement()


def test_a_page_whose_place_is_not_locked_leaves_the_balloon() -> None:
    pair = started(NO_BLOCKS)
    pair.go_to(10)
    source, target = int(pair.driver.balloon.heads(1)[3]), _free_frame(pair)
    _policy(pair).pin([target])
    assert pair.do(pair.driver.move(source, target), 0.1) is False
    assert pair.driver.actual_pages == 9
    assert pair.kernel.table.use[source] == Use.NONE
    pair.kernel.free(np.array([target]))
    pair.check_agreement()


def test_compaction_moves_pages_of_the_balloon_but_no_blocks() -> None:
    pair = started(memory_bytes=128 * MIB)
    _policy(pair).pin(range(0, 128 * MIB >> 12, 600))  # so that some pages come by themselves
    pair.go_to(8000)
    pair.check_agreement()
    blocks = pair.driver.balloon.heads(512).tolist()
    assert blocks
    assert pair.driver.balloon.heads(1).size > 100
    pair.go_to(6000)
    pair.do(pair.kernel.compact())
    assert pair.kernel.counters.balloon_migrate > 10
    assert pair.driver.balloon.heads(512).tolist() == blocks[: pair.host.locked.blocks]
    pair.check_agreement()


def test_a_page_is_not_moved_while_the_driver_begins_anew() -> None:
    pair = started(NO_BLOCKS)
    pair.go_to(10)
    source, target = int(pair.driver.balloon.heads(1)[3]), _free_frame(pair)
    pair.host.reset_guest()
    pair.run(0.5)  # the driver has heard of it
    pair.is_slow = True
    pair.clock.advance(1)
    pair.run_guest()
    answer: list[object] = []

    def move() -> Job[None]:
        answer.append((yield from pair.driver.move(source, target)))

    pair.scheduler.spawn("move", move())
    pair.run_guest()
    assert answer == [False]


def test_a_new_beginning_waits_for_a_page_that_is_moved() -> None:
    pair = started(NO_BLOCKS)
    pair.go_to(10)
    source, target = int(pair.driver.balloon.heads(1)[3]), _free_frame(pair)
    pair.host.reset_guest()
    pair.run(0.5)  # the driver has heard of it
    assert pair.driver.calls.reset_required
    pair.is_slow = True
    pair.scheduler.spawn("move", pair.driver.move(source, target))
    pair.run_guest()
    pair.clock.advance(1)
    pair.run_guest()
    assert [one.command for one in pair.asked] == [Command.BATCHED_UNLOCK]
    assert pair.driver.actual_pages == 10
    pair.run(0.1)
    assert pair.driver.actual_pages == 10  # and all of them are new
    pair.kernel.free(np.array([target]))
    pair.check_agreement()


def test_a_kernel_short_of_memory_gets_pages_and_keeps_them_for_a_while() -> None:
    pair = started(NO_BLOCKS, VmwareDriverSettings(shrinks=True))
    pair.go_to(3000)
    assert pair.kernel.oom_notifiers == [pair.driver.shrink]
    freed = pair.do(pair.driver.shrink(), 0.1)
    assert freed == 512
    assert pair.driver.actual_pages == 2488
    pair.check_agreement()
    pair.run(4.5)
    assert pair.driver.actual_pages == 2488
    pair.run(1.5)
    assert pair.driver.actual_pages == 3000
    pair.leave()
    assert pair.kernel.oom_notifiers == []


def test_a_balloon_gives_nothing_to_a_kernel_unless_it_is_set_up_so() -> None:
    assert started().kernel.oom_notifiers == []


def test_a_balloon_that_the_host_holds_on_to_grows_again_at_once() -> None:
    pair = started(NO_BLOCKS)
    pair.go_to(100)
    _policy(pair).refuse_unlock(pair.driver_pfns(), Status.BUSY)
    assert pair.do(pair.driver.shrink(), 0.1) == 0
    pair.go_to(200, seconds=1)
    assert pair.driver.actual_pages == 200


def test_pages_of_another_size_are_not_for_this_balloon() -> None:
    memory = PhysicalMemory([MemoryPiece(0, memoryview(bytearray(64 * MIB)))], 16384)
    kernel = Kernel(memory, Scheduler(0), VmwarePair().kernel.settings)
    with pytest.raises(GuestError, match="16384"):
        VmwareDriver(kernel, VmwarePair().call, VmwareDriverSettings())


def test_the_figures_are_those_of_linuxs_debugfs() -> None:
    pair = started(NO_BLOCKS)
    pair.go_to(700, seconds=1)
    told = pair.driver.describe()
    assert told["capabilities"] == ["basic", "batched", "doorbell", "64-bit-target"]
    assert (told["target-pages"], told["actual-pages"]) == (700, 700)
    assert told["calls"] == {
        "doorbellSet": 2,
        "start": 1,
        "guestType": 1,
        "target": 3,
        "batchLock": 2,
    }
    assert told["failed-calls"] == {"doorbellSet": 1}
    assert told["pages"] == {
        "timer": 3,
        "reset": 1,
        "doorbell": 1,
        "allocated-4k": 700,
        "not-allocated-4k": 0,
        "refused-4k": 0,
        "freed-refused-4k": 0,
    }


def _free_frame(pair: VmwarePair) -> int:
    """As compaction takes one."""
    frame = int(pair.kernel.zones[0].buddy.take_from_top(1, 0)[0])
    pair.kernel.table.use[frame] = Use.HELD
    return frame


def _policy(pair: VmwarePair) -> RefusedPages:
    assert isinstance(pair.host.policy, RefusedPages)
    return pair.host.policy
