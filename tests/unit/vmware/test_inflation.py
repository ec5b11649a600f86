"""How the balloon grows: page sizes, refusals, and the memory that the guest keeps."""

import numpy as np
import pytest
from tests.support.vmware_pair import MIB, VmwarePair

from ballonet.kernel.buddy import MigrateType
from ballonet.kernel.frames import Use
from ballonet.kernel.kernel import KernelSettings
from ballonet.vmware.calls import ALL_CAPABILITIES, Answer, Call, Capability, Command, Status
from ballonet.vmware.host import VmwareHostSettings
from ballonet.vmware.inflation import REFUSED_MAX
from ballonet.vmware.lock_policy import RefusedPages

NO_BLOCKS = VmwareHostSettings(ALL_CAPABILITIES & ~Capability.BATCHED_2M)
BASIC = VmwareHostSettings(Capability.BASIC)


def started(
    host: VmwareHostSettings = VmwareHostSettings(),  # noqa: B008 - immutable
    memory_bytes: int = 128 * MIB,
    swap_bytes: int = 0,
) -> tuple[VmwarePair, RefusedPages]:
    pair = VmwarePair(memory_bytes, host, kernel=KernelSettings(swap_bytes=swap_bytes))
    policy = RefusedPages()
    pair.host.policy = policy
    pair.driver.start()
    pair.run(0.1)
    pair.calls.clear()
    return pair, policy


def locks(pair: VmwarePair) -> list[Call]:
    return [call for call in pair.calls if "_LOCK" in f"_{Command(call.command).name}"]


def test_blocks_come_first() -> None:
    pair, _ = started()
    pair.go_to(10 * 512 + 1, seconds=0.01)
    assert [(call.command, call.arg2) for call in locks(pair)] == [(Command.BATCHED_2M_LOCK, 11)]
    pair.check_agreement()


def test_single_pages_come_in_batches_of_512() -> None:
    pair, _ = started(NO_BLOCKS)
    pair.go_to(1100, seconds=0.01)
    assert [call.arg2 for call in locks(pair)] == [512, 512, 76]
    pair.check_agreement()


def test_without_free_blocks_single_pages_follow() -> None:
    pair, _ = started()
    kernel = pair.kernel
    for head in [kernel.take_block(9, Use.HELD, MigrateType.MOVABLE) for _ in range(50)]:
        assert head is not None
        kernel.free(np.arange(head + 1, head + 512))  # the first frame stays in use
    pair.go_to(25000, seconds=0.1)
    assert pair.host.locked.blocks > 0
    assert pair.host.locked.small > 0
    pair.check_agreement()


def test_a_refused_block_is_offered_in_single_pages() -> None:
    pair, policy = started()
    policy.pin(range(0, 128 * MIB >> 12, 512))  # one page of every block
    pair.go_to(3000, seconds=0.01)
    commands = [call.command for call in locks(pair)]
    assert commands[:4] == [8, 8, 8, 6]  # 6 blocks, 6 more, 6 more, and then their pages
    assert pair.host.locked.blocks == 0
    assert pair.host.locked.small == 3000
    pair.check_agreement()
    assert pair.driver.stats["refused-2m"] >= REFUSED_MAX
    assert pair.kernel.free_frames == pair.free_at_boot - 3000 - 1


def test_pages_of_split_blocks_that_are_not_needed_are_freed() -> None:
    pair, policy = started()
    policy.pin(range(0, 128 * MIB >> 12, 512))
    pair.go_to(512, seconds=0.01)
    assert pair.host.locked.small == 512
    assert pair.kernel.free_frames == pair.free_at_boot - 512 - 1
    pair.check_agreement()


def test_16_refused_pages_are_enough_for_once() -> None:
    pair, policy = started(NO_BLOCKS)
    policy.pin(range(128 * MIB >> 12))
    pair.go_to(3000, seconds=0.01)
    assert [call.arg2 for call in locks(pair)] == [512]
    assert pair.driver.actual_pages == 0
    assert pair.kernel.free_frames == pair.free_at_boot - 1
    pair.run(1)
    assert len(locks(pair)) == 2  # a second later again


def test_a_few_refused_pages_are_replaced_and_not_offered_twice() -> None:
    pair, policy = started(NO_BLOCKS)
    offered: list[int] = []

    def note(call: Call) -> Answer:
        if call.command == Command.BATCHED_LOCK:
            raw = pair.host_memory.view(call.arg1 << 12, 8 * call.arg2)
            offered.extend((np.frombuffer(raw, "<u8") >> 12).tolist())
            if len(offered) == 512:
                policy.pin(offered[: REFUSED_MAX - 1])
        return pair.host.call(*call)

    pair.answer = note  # type: ignore[method-assign]
    pair.go_to(600, seconds=0.01)
    assert pair.driver.actual_pages == 600
    assert len(offered) == len(set(offered)) == 600 + REFUSED_MAX - 1
    assert pair.driver.stats["freed-refused-4k"] == REFUSED_MAX - 1
    pair.check_agreement()


def test_a_call_that_is_refused_ends_it_for_now() -> None:
    pair, _ = started()
    pair.answer = lambda call: (  # type: ignore[method-assign]
        Answer(Status.BUSY, 0) if call.command == 8 else pair.host.call(*call)
    )
    pair.go_to(3000, seconds=0.01)
    assert len(locks(pair)) == 1
    assert pair.kernel.free_frames == pair.free_at_boot - 1


def test_with_basic_commands_a_refused_page_ends_it_for_now() -> None:
    pair, policy = started(BASIC)
    policy.pin(range(128 * MIB >> 12))
    pair.go_to(3000, seconds=1)
    assert len(locks(pair)) == 1
    assert pair.kernel.free_frames == pair.free_at_boot


@pytest.mark.parametrize("host", [VmwareHostSettings(), NO_BLOCKS])
@pytest.mark.parametrize("target", [2**20, 2**63, 2**64 - 1])
def test_the_guest_keeps_a_part_of_its_memory(host: VmwareHostSettings, target: int) -> None:
    pair, _ = started(host)
    managed = pair.kernel.managed_frames
    pair.go_to(target, seconds=10)
    assert managed // 16 <= pair.kernel.available_frames < managed // 16 + 1024
    pair.check_agreement()


def test_a_guest_that_uses_its_memory_keeps_more_than_what_is_free() -> None:
    """Its pages can be written to swap for the balloon, but not all of them."""
    pair, _ = started(NO_BLOCKS, swap_bytes=64 * MIB)
    kernel = pair.kernel
    process = kernel.start_process("program")
    area = kernel.add_area("heap", 12_000, process)
    pages = np.arange(area.frames.size)
    pair.do(kernel.paging.touch(area, pages, write=True, process=process), 1)
    pair.go_to(2**32 - 1, seconds=30)
    assert kernel.counters.pswpout > 0
    assert process.is_alive
    pair.do(kernel.paging.touch(area, pages, write=False, process=process), 5)
    assert process.is_alive
    pair.check_agreement()


def test_caches_make_room_for_the_balloon() -> None:
    pair, _ = started(NO_BLOCKS)
    kernel = pair.kernel
    area = kernel.add_area("file", 15_000)
    pair.do(kernel.paging.touch(area, np.arange(15_000), write=False), 1)
    pair.go_to(22_000)
    assert pair.driver.actual_pages == 22_000
    assert area.present.size < 15_000
    pair.check_agreement()
