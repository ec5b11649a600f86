"""The frames of the driver's balloon, and the kernel's account of them."""

import numpy as np
import pytest
from tests.support.vmware_pair import VmwarePair

from ballonet.kernel.buddy import MigrateType
from ballonet.kernel.frames import Frames, Use
from ballonet.kernel.kernel import Effort, Kernel
from ballonet.kernel.tasks import Job
from ballonet.vmware.balloon_frames import BalloonFrames, frames_of


@pytest.fixture
def kernel() -> Kernel:
    return VmwarePair().kernel


def allocate(kernel: Kernel, count: int) -> Frames:
    def run(job: Job[Frames]) -> Frames:
        try:
            while True:
                next(job)
        except StopIteration as end:
            return np.asarray(end.value)

    return run(kernel.allocate(count, Effort.FREE_ONLY, Use.HELD))


def test_the_newest_pages_come_first(kernel: Kernel) -> None:
    balloon = BalloonFrames(kernel)
    frames = allocate(kernel, 3000)
    balloon.add(frames[:2000], 1)
    balloon.add(frames[2000:], 1)
    assert balloon.size == 3000
    assert balloon.take(1000, 1).tolist() == frames[2000:][::-1].tolist()
    assert balloon.take(5000, 1).tolist() == frames[:2000][::-1].tolist()
    assert balloon.take(1, 1).tolist() == []


def test_pages_in_the_balloon_are_not_the_guests(kernel: Kernel) -> None:
    balloon = BalloonFrames(kernel)
    free, managed = kernel.free_frames, kernel.managed_frames
    frames = allocate(kernel, 10)
    head = kernel.take_block(9, Use.HELD, MigrateType.UNMOVABLE)
    assert head is not None
    balloon.add(frames, 1)
    balloon.add(np.array([head]), 512)
    assert kernel.managed_frames == managed - 522
    assert kernel.counters.balloon_inflate == 522
    assert kernel.table.used_as(Use.BALLOON).tolist() == sorted(frames.tolist())
    balloon.free_all()
    assert (kernel.free_frames, kernel.managed_frames) == (free, managed)
    assert kernel.counters.balloon_deflate == 522
    assert balloon.size == 0


def test_a_page_that_is_asked_for_still_counts_and_is_not_moved(kernel: Kernel) -> None:
    balloon = BalloonFrames(kernel)
    frames = allocate(kernel, 4)
    balloon.add(frames, 1)
    taken = balloon.take(2, 1)
    assert balloon.size == 4
    assert kernel.table.count(Use.BALLOON) == 2
    assert not balloon.take_one(int(taken[0]))
    balloon.put_back(taken, 1)
    assert sorted(balloon.heads(1).tolist()) == sorted(frames.tolist())


def test_one_page_comes_out_of_the_middle(kernel: Kernel) -> None:
    balloon = BalloonFrames(kernel)
    frames = allocate(kernel, 5)
    new, others = int(frames[4]), frames[:4]
    balloon.add(others, 1)
    assert balloon.take_one(int(others[1]))
    balloon.replace(int(others[1]), new)
    assert balloon.size == 4
    assert set(balloon.heads(1).tolist()) == {*others.tolist(), new} - {int(others[1])}
    assert kernel.table.use[others[1]] == Use.NONE
    assert kernel.counters.balloon_migrate == 1
    for frame in balloon.heads(1).tolist():
        assert balloon.take_one(frame)
        assert not balloon.take_one(frame)
    assert balloon.heads(1).size == 0


def test_a_page_of_a_block_cannot_be_taken_alone(kernel: Kernel) -> None:
    balloon = BalloonFrames(kernel)
    head = kernel.take_block(9, Use.HELD, MigrateType.UNMOVABLE)
    assert head is not None
    balloon.add(np.array([head]), 512)
    assert not balloon.take_one(head)
    assert not balloon.take_one(head + 5)


def test_a_block_has_512_frames() -> None:
    assert frames_of(np.array([1024, 0]), 512).tolist() == [*range(1024, 1536), *range(512)]
