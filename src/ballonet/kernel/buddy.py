"""The buddy allocator of one zone: free blocks of 2^order frames, split and joined again.

Whole arrays of frames are taken and given back at once; loops run over blocks, never over frames.
Each pageblock belongs to movable or unmovable allocations, so that what cannot be moved stays
together; a type that runs out takes the largest block of the other, as Linux does.
Units: frames, which are guest pages.  Source: Linux mm/page_alloc.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_ORDER", "PAGEBLOCK_ORDER", "Buddy", "FreeBlocks", "MigrateType"]

Frames = NDArray[np.int64]

MAX_ORDER: Final = 10  #: the largest block: 4 MiB with guest pages of 4 KiB
PAGEBLOCK_ORDER: Final = 9
_ORDERS: Final = range(MAX_ORDER + 1)


class MigrateType(IntEnum):
    """What a pageblock is for."""

    UNMOVABLE = 0  #: the kernel's own
    MOVABLE = 1  #: of processes, of files, of the balloon


@dataclass(frozen=True, slots=True)
class FreeBlocks:
    """The state of an allocator: blocks by type, by order, and oldest first, as on its lists."""

    heads: Frames  #: first frame of each block
    counts: Frames  #: length of each list
    types: NDArray[np.uint8]  #: of each pageblock
    reported: Frames  #: heads of blocks the host knows to be free, ascending

    @property
    def frames(self) -> Frames:
        """Frames of each block."""
        return np.repeat(np.tile(1 << np.arange(MAX_ORDER + 1), len(MigrateType)), self.counts)


class Buddy:
    """Free frames of `start` to `end`; begins with none free."""

    def __init__(self, start: int, end: int) -> None:
        self.start: Final = start
        self.end: Final = end
        self.free_frames = 0
        base = start >> MAX_ORDER << MAX_ORDER
        self._base = base
        # Order + 1 at the first frame of each free block, 0 elsewhere: untouched memory costs none.
        self._head: NDArray[np.uint8] = np.zeros(end - base + 1, np.uint8)
        blocks = (end - base >> PAGEBLOCK_ORDER) + 1
        self._types: NDArray[np.uint8] = np.full(blocks, MigrateType.MOVABLE, np.uint8)
        self._lists: list[list[dict[int, None]]] = [[{} for _ in _ORDERS] for _ in MigrateType]
        self._reported: set[int] = set()  # first frames of free blocks the host knows to be free

    @property
    def pageblocks(self) -> int:
        """How many pageblocks have a type."""
        return self._types.size

    def take(self, count: int, kind: MigrateType) -> Frames:
        """So many single frames, fewer if there are not enough; small blocks are used up first."""
        parts: list[Frames] = []
        while count > 0:
            found = self._smallest(0, kind)
            if found is None:
                break
            head, order = found
            self._remove(head, order)
            used = min(count, 1 << order)
            parts.append(np.arange(head, head + used))
            self._put_back(head + used, head + (1 << order))
            count -= used
            self.free_frames -= used
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def take_block(self, order: int, kind: MigrateType) -> int | None:
        """First frame of a block of this order, or None."""
        found = self._smallest(order, kind)
        if found is None:
            return None
        head, found_order = found
        self._remove(head, found_order)
        self._put_back(head + (1 << order), head + (1 << found_order))
        self.free_frames -= 1 << order
        return head

    def take_exactly(self, head: int, order: int) -> None:
        """Take a block that is free as it is."""
        self._remove(head, order)
        self.free_frames -= 1 << order

    def give(self, frames: Frames) -> None:
        """Free single frames, in any order, none twice."""
        self._join(np.sort(frames), 0)
        self.free_frames += frames.size

    def give_block(self, head: int, order: int, *, reported: bool = False) -> None:
        """Free a block; `reported`: the host knows, unless it is joined with more."""
        self._join(np.array([head]), order)
        self.free_frames += 1 << order
        if reported and self._head[head - self._base] == order + 1:
            self._reported.add(head)

    def give_range(self, start: int, end: int) -> None:
        """Free everything between two frames."""
        self._put_back(start, end)
        self.free_frames += end - start

    def free_blocks(self, order: int) -> list[tuple[int, bool]]:
        """First frame of every free block of this order, and if it was reported; newest first."""
        return [
            (head, head in self._reported)
            for blocks in self._lists
            for head in reversed(blocks[order])
        ]

    def count_blocks(self, order: int) -> int:
        """How many free blocks of this order there are."""
        return sum(len(blocks[order]) for blocks in self._lists)

    def has_block(self, order: int) -> bool:
        """A block of at least this order is free."""
        return any(blocks[at] for blocks in self._lists for at in range(order, MAX_ORDER + 1))

    def has_free_block(self, head: int, order: int) -> bool:
        """A free block of just this order begins there."""
        return bool(self._head[head - self._base] == order + 1)

    def is_free(self, frame: int) -> bool:
        """The frame is in some free block."""
        for order in _ORDERS:
            head = frame >> order << order
            if head >= self._base and self._head[head - self._base] == order + 1:
                return True
        return False

    def take_from_top(self, count: int, above: int) -> Frames:
        """Free frames with the highest numbers, none below `above`: where compaction moves to."""
        heads = np.flatnonzero(self._head[max(0, above - self._base) :]) + max(above, self._base)
        parts: list[Frames] = []
        for head in heads[::-1].tolist():
            if count <= 0:
                break
            order = int(self._head[head - self._base]) - 1
            self._remove(head, order)
            end = head + (1 << order)
            used = min(count, 1 << order)
            parts.append(np.arange(end - used, end)[::-1])
            self._put_back(head, end - used)
            self.free_frames -= used
            count -= used
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def snapshot(self) -> FreeBlocks:
        """All that is needed to go on elsewhere."""
        lists = [blocks for by_order in self._lists for blocks in by_order]
        counts = np.array([len(blocks) for blocks in lists])
        heads = np.fromiter(chain.from_iterable(lists), np.int64, int(counts.sum()))
        return FreeBlocks(heads, counts, self._types.copy(), np.array(sorted(self._reported), int))

    def restore(self, state: FreeBlocks) -> None:
        """Go on where another allocator of this size was; the state was checked."""
        orders = [order for _ in MigrateType for order in _ORDERS]
        self._head[state.heads - self._base] = np.repeat(orders, state.counts) + 1
        ends = np.cumsum(state.counts).tolist()
        for i, (end, length) in enumerate(zip(ends, state.counts.tolist(), strict=True)):
            kind, order = divmod(i, MAX_ORDER + 1)
            self._lists[kind][order] = dict.fromkeys(state.heads[end - length : end].tolist())
        self._types[:] = state.types
        self._reported = set(state.reported.tolist())
        self.free_frames = int(state.frames.sum())

    def _smallest(self, order: int, kind: MigrateType) -> tuple[int, int] | None:
        """The smallest block that is big enough; of the other type the largest instead."""
        for at in range(order, MAX_ORDER + 1):
            if self._lists[kind][at]:
                return next(reversed(self._lists[kind][at])), at
        other = MigrateType(1 - kind)
        for at in range(MAX_ORDER, order - 1, -1):
            if self._lists[other][at]:
                head = next(reversed(self._lists[other][at]))
                if at >= PAGEBLOCK_ORDER // 2:
                    self._claim(head, at, kind)
                return head, at
        return None

    def _claim(self, head: int, order: int, kind: MigrateType) -> None:
        """Turn the pageblocks of a block over to another type."""
        first = head - self._base >> PAGEBLOCK_ORDER
        last = head - self._base + (1 << order) - 1 >> PAGEBLOCK_ORDER
        self._types[first : last + 1] = kind

    def _join(self, blocks: Frames, order: int) -> None:
        """Put blocks of one order on the lists, joined with their free buddies."""
        if blocks.size == 1:
            self._join_one(int(blocks[0]), order)
            return
        for at in range(order, MAX_ORDER):
            buddies = blocks ^ (1 << at)
            place = np.minimum(np.searchsorted(blocks, buddies), blocks.size - 1)
            together = blocks[place] == buddies
            inside = (buddies >= self._base) & (buddies < self.end)
            marks = self._head[np.where(inside, buddies - self._base, -1)]
            waits = ~together & inside & (marks == at + 1)
            for buddy in buddies[waits].tolist():
                self._remove(buddy, at)
            joins = together | waits
            self._insert(blocks[~joins], at)
            blocks = blocks[joins] & ~np.int64(1 << at)
            if not blocks.size:
                return
            blocks = blocks[np.flatnonzero(np.diff(blocks, prepend=-1))]
        self._insert(blocks, MAX_ORDER)

    def _join_one(self, head: int, order: int) -> None:
        """The same for one block, which needs no arrays."""
        while order < MAX_ORDER:
            buddy = head ^ 1 << order
            if not self._base <= buddy < self.end or self._head[buddy - self._base] != order + 1:
                break
            self._remove(buddy, order)
            head &= ~(1 << order)
            order += 1
        self._head[head - self._base] = order + 1
        self._lists[self._types[head - self._base >> PAGEBLOCK_ORDER]][order][head] = None

    def _put_back(self, start: int, end: int) -> None:
        """Free the rest of a block that was split: nothing in it can be joined."""
        while start < end:
            order = min(MAX_ORDER, (end - start).bit_length() - 1)
            if start:
                order = min(order, (start & -start).bit_length() - 1)
            self._head[start - self._base] = order + 1
            self._lists[self._types[start - self._base >> PAGEBLOCK_ORDER]][order][start] = None
            start += 1 << order

    def _insert(self, heads: Frames, order: int) -> None:
        self._head[heads - self._base] = order + 1
        kinds = self._types[heads - self._base >> PAGEBLOCK_ORDER]
        for head, kind in zip(heads.tolist(), kinds.tolist(), strict=True):
            self._lists[kind][order][head] = None

    def _remove(self, head: int, order: int) -> None:
        self._head[head - self._base] = 0
        self._reported.discard(head)
        for blocks in self._lists:
            if blocks[order].pop(head, self) is None:
                return
        raise AssertionError(f"frame {head:#x} heads no free block of order {order}")
