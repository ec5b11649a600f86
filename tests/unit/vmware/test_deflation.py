"""How the balloon shrinks: the order of pages, and what the host keeps."""

from tests.support.vmware_pair import MIB, VmwarePair

from ballonet.vmware.calls import ALL_CAPABILITIES, Answer, Capability, Command, Status
from ballonet.vmware.host import VmwareHostSettings
from ballonet.vmware.lock_policy import RefusedPages

NO_BLOCKS = VmwareHostSettings(ALL_CAPABILITIES & ~Capability.BATCHED_2M)


def grown(host: VmwareHostSettings, pages: int) -> tuple[VmwarePair, RefusedPages]:
    pair = VmwarePair(128 * MIB, host)
    policy = RefusedPages()
    pair.host.policy = policy
    pair.driver.start()
    pair.go_to(pages)
    pair.check_agreement()
    pair.calls.clear()
    return pair, policy


def unlocks(pair: VmwarePair) -> list[tuple[int, int]]:
    return [
        (call.command, call.arg2) for call in pair.calls if "UNLOCK" in Command(call.command).name
    ]


def mixed() -> tuple[VmwarePair, RefusedPages]:
    """A balloon of blocks, and of 600 pages by themselves."""
    pair, policy = grown(VmwareHostSettings(), 10 * 512)
    policy.pin(range(0, 128 * MIB >> 12, 512))  # no further block
    pair.go_to(10 * 512 + 600)
    assert (pair.host.locked.blocks, pair.host.locked.small) == (10, 600)
    pair.calls.clear()
    return pair, policy


def test_pages_come_back_in_batches() -> None:
    pair, _ = grown(NO_BLOCKS, 1100)
    pair.go_to(0, seconds=0.01)
    assert unlocks(pair) == [(7, 512), (7, 512), (7, 76)]
    assert pair.kernel.free_frames == pair.free_at_boot - 1
    pair.check_agreement()


def test_single_pages_come_back_before_blocks() -> None:
    pair, _ = mixed()
    pair.go_to(10 * 512 - 700, seconds=0.01)
    assert unlocks(pair) == [(7, 512), (7, 88), (9, 2)]
    assert (pair.host.locked.blocks, pair.host.locked.small) == (8, 0)
    pair.check_agreement()


def test_pages_that_the_host_keeps_stay_in_the_balloon_and_are_asked_for_again() -> None:
    pair, policy = grown(NO_BLOCKS, 1000)
    kept = pair.driver_pfns()[:7]
    policy.refuse_unlock(kept, Status.BUSY)
    pair.go_to(0, seconds=0.01)
    assert set(kept) <= set(pair.driver_pfns())
    pair.run(3)
    assert pair.driver_pfns() == kept
    pair.check_agreement()
    policy.allow()
    pair.run(1)
    assert pair.driver.actual_pages == 0
    pair.check_agreement()


def test_instead_of_pages_that_the_host_keeps_blocks_come_back() -> None:
    pair, policy = mixed()
    singles = pair.driver.balloon.heads(1).tolist()
    policy.refuse_unlock(singles, Status.BUSY)
    pair.go_to(9 * 512, seconds=0.01)
    assert pair.host.locked.small == 600
    assert pair.host.locked.blocks == 7
    pair.check_agreement()


def test_a_call_that_is_refused_changes_nothing() -> None:
    pair, _ = mixed()
    before = pair.driver_pfns()
    pair.answer = lambda call: (  # type: ignore[method-assign]
        Answer(Status.BUSY, 0) if call.command in (7, 9) else pair.host.call(*call)
    )
    pair.go_to(0, seconds=0.01)
    assert unlocks(pair) == [(7, 512), (9, 10)]
    assert pair.driver_pfns() == before
    pair.check_agreement()


def test_pages_are_free_only_after_the_host_has_agreed() -> None:
    pair, _ = grown(NO_BLOCKS, 100)
    free = pair.kernel.free_frames
    pair.is_slow = True
    pair.host.set_target(0)
    pair.clock.advance(1)
    pair.run_guest()
    pair.answer_one()
    pair.run_guest()
    assert [one.command for one in pair.asked] == [Command.BATCHED_UNLOCK]
    assert pair.kernel.free_frames == free
    assert pair.driver.actual_pages == 100
    pair.run(0.1)
    assert pair.kernel.free_frames == free + 100
