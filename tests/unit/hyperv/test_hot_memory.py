"""Chunks of memory that is added while a guest runs."""

from __future__ import annotations

from ballonet.hyperv.hot_memory import HotMemory

GIB = 1 << 18
MIB = 256


def test_it_is_offered_in_aligned_chunks_of_2_gib_at_most() -> None:
    hot = HotMemory(4 * GIB, 5 * GIB)
    assert hot.absent_pages == 5 * GIB
    assert hot.offer(10 * GIB, 128 * MIB) == (4 * GIB, 2 * GIB)
    assert hot.answer(2 * GIB, is_success=True) == 2 * GIB
    assert hot.offer(300 * MIB, 128 * MIB) == (6 * GIB, 256 * MIB)
    assert hot.answer(256 * MIB, is_success=True) == 256 * MIB
    assert list(hot.added.pairs()) == [(4 * GIB, 2 * GIB + 256 * MIB)]
    assert hot.absent_pages == 3 * GIB - 256 * MIB


def test_less_than_a_unit_is_not_offered() -> None:
    hot = HotMemory(4 * GIB, 100 * MIB)
    assert hot.offer(100 * MIB, 128 * MIB) is None
    assert hot.offer(5 * MIB, 8 * MIB) is None
    assert hot.offer(8 * MIB, 8 * MIB) is not None


def test_it_begins_where_the_guest_can_take_it() -> None:
    hot = HotMemory(4 * GIB + 3 * MIB, GIB)
    assert hot.offer(GIB, 128 * MIB) == (4 * GIB + 128 * MIB, GIB - 128 * MIB)


def test_a_guest_s_unit_of_more_than_2_gib_is_offered_whole() -> None:
    hot = HotMemory(32 * GIB, 64 * GIB)
    assert hot.offer(64 * GIB, 32 * GIB) == (32 * GIB, 32 * GIB)


def test_a_refusal_ends_it() -> None:
    hot = HotMemory(0, 4 * GIB)
    hot.offer(GIB, MIB)
    assert hot.answer(GIB, is_success=False) == 0
    assert hot.offer(GIB, MIB) is None
    assert hot.absent_pages == 4 * GIB


def test_a_part_is_taken_and_ends_it() -> None:
    hot = HotMemory(0, 4 * GIB)
    hot.offer(GIB, MIB)
    assert hot.answer(5, is_success=True) == 5
    assert list(hot.added.pairs()) == [(0, 5)]
    assert hot.offer(GIB, MIB) is None


def test_a_guest_cannot_take_more_than_it_was_offered() -> None:
    hot = HotMemory(0, 4 * GIB)
    assert hot.answer(GIB, is_success=True) == 0
    hot.offer(GIB, MIB)
    assert hot.answer(1 << 31, is_success=True) == GIB
    assert hot.added_pages == GIB
    assert hot.answer(GIB, is_success=True) == 0


def test_a_reset_of_the_machine_takes_it_away() -> None:
    hot = HotMemory(0, 4 * GIB)
    hot.offer(GIB, MIB)
    hot.answer(0, is_success=False)
    hot.release()
    assert hot.added_pages == 0
    assert hot.offer(GIB, MIB) == (0, GIB)
