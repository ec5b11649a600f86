"""Who keeps how much: every VM's claims, tier after tier, by weighted water-filling.  Values only.

Theory of operation.  Everybody starts with its least.  Then the first tier is filled for all, then
the second, until the budget is spent.  Within a tier memory rises like water: it stands equally
high above everybody's floor, per weight, but for those who are full, and those who started higher
because nothing may be taken from them: they wait until it has come up to them.
In whole bytes: each byte goes to whoever would have the least above its floor, per weight, with it,
the first by name where two are equal (the order of D'Hondt).  So what is poured is the beginning of
one list, and three things hold exactly: more budget takes a byte from nobody; one claim that moves
by d moves all others by d together, not more; and the order in which VMs are named does not matter.
Units: bytes.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

__all__ = ["Claim", "Room", "allocate", "pour"]

#: Levels are compared as whole numbers: two of them differ by at least 1/(weight * weight).
_LEVEL_SHIFT: Final = 64


class Claim(NamedTuple):
    """What one VM asks for."""

    vm: str
    floor_bytes: int  #: from here its part is counted
    least_bytes: int  #: it keeps that, whatever the budget; not below its floor
    tiers_bytes: tuple[
        int, ...
    ]  #: up to here in each tier; what is lower than before counts as that
    weight: int  #: at least 1, below 2^32


class Room(NamedTuple):
    """Where water can stand, in bytes above a floor."""

    start_bytes: int
    end_bytes: int
    weight: int  #: at least 1, below 2^32


def allocate(claims: Sequence[Claim], budgets_bytes: Sequence[int]) -> dict[str, int]:
    """What each VM keeps; `budgets_bytes` is what all may keep together after each tier.

    The sum is the larger of all leasts and, as far as they are claimed, the budgets.
    """
    kept = {claim.vm: claim.least_bytes for claim in claims}
    for tier, budget_bytes in enumerate(budgets_bytes):
        rooms = {}
        for claim in claims:
            start_bytes = kept[claim.vm] - claim.floor_bytes
            end_bytes = max(start_bytes, claim.tiers_bytes[tier] - claim.floor_bytes)
            rooms[claim.vm] = Room(start_bytes, end_bytes, claim.weight)
        for vm, more_bytes in pour(rooms, budget_bytes - sum(kept.values())).items():
            kept[vm] += more_bytes
    return kept


def pour(rooms: Mapping[str, Room], water_bytes: int) -> dict[str, int]:
    """Divide water among rooms, as much of it as they hold."""
    rooms = {vm: room for vm, room in rooms.items() if room.end_bytes > room.start_bytes}
    if sum(room.end_bytes - room.start_bytes for room in rooms.values()) <= water_bytes:
        return {vm: room.end_bytes - room.start_bytes for vm, room in rooms.items()}
    if water_bytes <= 0:
        return {}
    stands = _rise(rooms, water_bytes)
    left_bytes = water_bytes - sum(stands[vm] - room.start_bytes for vm, room in rooms.items())
    next_bytes = [_next_byte(vm, room, stands[vm]) for vm, room in rooms.items()]
    heapq.heapify(next_bytes)
    while left_bytes:  # fewer than there are rooms
        _, vm, room = heapq.heappop(next_bytes)
        if stands[vm] < room.end_bytes:
            stands[vm] += 1
            left_bytes -= 1
            heapq.heappush(next_bytes, _next_byte(vm, room, stands[vm]))
    return {vm: stands[vm] - room.start_bytes for vm, room in rooms.items()}


def _rise(rooms: Mapping[str, Room], water_bytes: int) -> dict[str, int]:
    """Where water stands in each room, less than a byte too low in any.

    The level rises from one mark to the next, each the start or the end of a room, while there is
    water for that.  At a mark of byte b in a room of weight w all rooms that it is within hold
    b / w for each of their weight: compared in whole numbers, so exactly.
    """
    marks = sorted(
        ((mark << _LEVEL_SHIFT) // room.weight, mark, room.weight, vm, is_end)
        for vm, room in rooms.items()
        for mark, is_end in ((room.start_bytes, False), (room.end_bytes, True))
    )
    rising, weights, starts, full_bytes = set[str](), 0, 0, 0
    stands = {vm: room.start_bytes for vm, room in rooms.items()}
    for _, mark, weight, vm, is_end in marks:
        if weight * (full_bytes - starts - water_bytes) + mark * weights > 0:
            break
        room, sign = rooms[vm], -1 if is_end else 1
        weights += sign * room.weight
        starts += sign * room.start_bytes
        if is_end:
            rising.discard(vm)
            stands[vm] = room.end_bytes
            full_bytes += room.end_bytes - room.start_bytes
        else:
            rising.add(vm)
    for vm in rising:
        stands[vm] = (water_bytes - full_bytes + starts) * rooms[vm].weight // weights
    return stands


def _next_byte(vm: str, room: Room, stands_bytes: int) -> tuple[int, str, Room]:
    return ((stands_bytes + 1) << _LEVEL_SHIFT) // room.weight, vm, room
