"""The buddy allocator against a plain set of free frames."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ballonet.kernel.buddy import MAX_ORDER, Buddy, MigrateType

FIRST, END = 3, 3 + 5000

STEP = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 700), st.sampled_from(MigrateType)),
    st.tuples(st.just("block"), st.integers(0, MAX_ORDER), st.sampled_from(MigrateType)),
    st.tuples(st.just("top"), st.integers(1, 300), st.integers(FIRST, END)),
    st.tuples(st.just("give"), st.integers(1, 900), st.integers(0, 2**32)),
)


def check_blocks(buddy: Buddy, free: set[int]) -> None:
    """Every free frame is in just one block; blocks are aligned, and no two could be joined."""
    seen: set[int] = set()
    heads: dict[int, set[int]] = {}
    for order in range(MAX_ORDER + 1):
        heads[order] = {head for head, _ in buddy.free_blocks(order)}
        for head in heads[order]:
            assert head % (1 << order) == 0
            frames = set(range(head, head + (1 << order)))
            assert not frames & seen
            seen |= frames
            if order < MAX_ORDER:
                assert head ^ 1 << order not in heads[order]
    assert seen == free
    assert buddy.free_frames == len(free)


@settings(max_examples=120, deadline=None)
@given(st.lists(STEP, max_size=25))
def test_no_frame_is_lost_or_given_twice(steps: list[tuple[str, int, int]]) -> None:
    buddy = Buddy(FIRST, END)
    buddy.give_range(FIRST, END)
    free, held = set(range(FIRST, END)), set[int]()
    for verb, size, extra in steps:
        if verb == "give":
            chosen = np.random.default_rng(extra).permutation(sorted(held))[:size]
            if chosen.size:
                buddy.give(chosen.astype(np.int64))
            free |= set(chosen.tolist())
            held -= set(chosen.tolist())
            continue
        if verb == "take":
            frames = buddy.take(size, MigrateType(extra))
            assert frames.size == min(size, len(free))
        elif verb == "top":
            frames = buddy.take_from_top(size, extra)
        else:
            head = buddy.take_block(size, MigrateType(extra))
            frames = np.arange(head, head + (1 << size)) if head is not None else np.arange(0)
        taken = set(frames.tolist())
        assert len(taken) == frames.size
        assert taken <= free
        free -= taken
        held |= taken
        check_blocks(buddy, free)
    if held:
        buddy.give(np.array(sorted(held)))
    check_blocks(buddy, set(range(FIRST, END)))


def test_unmovable_memory_stays_together() -> None:
    buddy = Buddy(0, 1 << 14)
    buddy.give_range(0, 1 << 14)
    movable = [buddy.take(100, MigrateType.MOVABLE) for _ in range(20)]
    unmovable = np.concatenate([buddy.take(1, MigrateType.UNMOVABLE) for _ in range(200)])
    assert np.ptp(unmovable) < 1 << MAX_ORDER
    assert not set(unmovable.tolist()) & set(np.concatenate(movable).tolist())


def test_small_blocks_are_used_up_before_large_ones_are_split() -> None:
    buddy = Buddy(0, 1 << 12)
    buddy.give_range(0, 1 << 12)
    single = buddy.take(3, MigrateType.MOVABLE)
    before = buddy.count_blocks(MAX_ORDER)
    more = buddy.take(1021, MigrateType.MOVABLE)
    assert buddy.count_blocks(MAX_ORDER) == before
    assert sorted([*single.tolist(), *more.tolist()]) == list(
        range(int(single.min()), int(single.min()) + 1024)
    )
