"""Who keeps how much: every VM's claims, tier after tier, by weighted water-filling.  Values only.

Theory of operation.  Everybody starts with its least.  Then the first tier is filled for all, then
the second, until the budget is spent.  Within a tier memory rises like water: everybody who is not
full gets the same per weight.  In whole bytes: each byte goes to whoever would have the least per
weight with it, the first by name where two are equal (the order of D'Hondt).  So what is poured is
the beginning of one endless list, and three things hold exactly: more budget takes a byte from
nobody; one claim that moves by d moves all others by d together, not more; and the order in which
VMs are named does not matter.
Units: bytes.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["Claim", "allocate", "pour"]

#: Levels are compared as whole numbers: two of them differ by at least 1/(weight * weight).
_LEVEL_SHIFT: Final = 64


class Claim(NamedTuple):
    """What one VM asks for."""

    vm: str
    least_bytes: int  #: it keeps that, whatever the budget
    tiers_bytes: tuple[
        int, ...
    ]  #: up to here in each tier; what is lower than before counts as that
    weight: int  #: at least 1, below 2^32


class _Room(NamedTuple):
    level: int  #: water stands here when it is full
    vm: str
    room_bytes: int
    weight: int


def allocate(claims: Sequence[Claim], budgets_bytes: Sequence[int]) -> dict[str, int]:
    """What each VM keeps; `budgets_bytes` is what all may keep together after each tier.

    The sum is the larger of all leasts and, as far as they are claimed, the budgets.
    """
    kept = {claim.vm: claim.least_bytes for claim in claims}
    for tier, budget_bytes in enumerate(budgets_bytes):
        rooms = {
            claim.vm: (max(0, claim.tiers_bytes[tier] - kept[claim.vm]), claim.weight)
            for claim in claims
        }
        for vm, more_bytes in pour(rooms, budget_bytes - sum(kept.values())).items():
            kept[vm] += more_bytes
    return kept


def pour(rooms: dict[str, tuple[int, int]], water_bytes: int) -> dict[str, int]:
    """Divide water among rooms, each a size and a weight; as much of it as they hold."""
    ordered = sorted(
        _Room((size << _LEVEL_SHIFT) // weight, vm, size, weight)
        for vm, (size, weight) in rooms.items()
        if size > 0
    )
    poured: dict[str, int] = {}
    weights = sum(room.weight for room in ordered)
    for index, room in enumerate(ordered):
        if room.room_bytes * weights > water_bytes * room.weight:
            return poured | _pour_evenly(ordered[index:], weights, max(0, water_bytes))
        poured[room.vm] = room.room_bytes
        water_bytes -= room.room_bytes
        weights -= room.weight
    return poured


def _pour_evenly(rooms: Sequence[_Room], weights: int, water_bytes: int) -> dict[str, int]:
    """Among rooms none of which is filled by its part."""
    poured = {room.vm: water_bytes * room.weight // weights for room in rooms}
    left_bytes = water_bytes - sum(poured.values())  # fewer than there are rooms
    next_levels = [_level_of_next(room, poured[room.vm]) for room in rooms]
    heapq.heapify(next_levels)
    while left_bytes:
        _, vm, room = heapq.heappop(next_levels)
        if poured[vm] < room.room_bytes:
            poured[vm] += 1
            left_bytes -= 1
            heapq.heappush(next_levels, _level_of_next(room, poured[vm]))
    return poured


def _level_of_next(room: _Room, poured_bytes: int) -> tuple[int, str, _Room]:
    return ((poured_bytes + 1) << _LEVEL_SHIFT) // room.weight, room.vm, room
