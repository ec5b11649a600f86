"""What the allocation promises, on random fleets: 2,000 of them, or BALLONET_FLEETS."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from ballonet.autopilot.allocation import Claim, Room, allocate, pour

FLEETS: Final = int(os.environ.get("BALLONET_FLEETS", "2000"))
TIERS: Final = 5
MIB: Final = 1 << 20


def random_fleet(dice: random.Random) -> tuple[list[Claim], int]:
    """Sizes as they are, and sizes so small that every byte counts."""
    unit = dice.choice([1, 1, MIB, MIB + 1])
    claims = []
    for index in range(dice.randint(1, 9)):
        most = dice.randint(1, 64) * unit
        floor = dice.randint(0, most)
        least = dice.choice([floor, floor, dice.randint(floor, most)])
        tiers = tuple(sorted(dice.randint(0, most) for _ in range(TIERS)))
        weight = dice.choice([1, 1000, 1000, dice.randint(1, 10_000)])
        claims.append(Claim(f"vm{index}", floor, least, tiers, weight))
    total = sum(one.tiers_bytes[-1] for one in claims)
    return claims, dice.randint(0, total + 2 * unit)


def budgets(budget: int, pool: int = 0) -> tuple[int, ...]:
    return (budget,) * (TIERS - 1) + (budget - pool,)


def full(claim: Claim, tier: int) -> int:
    return max(claim.least_bytes, claim.tiers_bytes[tier])


def check_sum(claims: Sequence[Claim], budget: int, kept: dict[str, int]) -> None:
    """Every byte that is claimed and is there is given, and not one more."""
    leasts = sum(one.least_bytes for one in claims)
    wanted = sum(full(one, TIERS - 1) for one in claims)
    assert sum(kept.values()) == max(leasts, min(budget, wanted))
    for one in claims:
        assert one.least_bytes <= kept[one.vm] <= full(one, TIERS - 1)


def check_order_of_tiers(claims: Sequence[Claim], kept: dict[str, int]) -> None:
    """Nobody has anything of a tier while somebody lacks something of the one before it."""
    for tier in range(TIERS - 1):
        if any(kept[one.vm] > full(one, tier) for one in claims):
            assert all(kept[one.vm] >= full(one, tier) for one in claims)


def check_fair_part(claims: Sequence[Claim], budget: int, kept: dict[str, int]) -> None:
    """Whatever others claim, everybody has its first tier up to its part by weight."""
    spare = budget - sum(one.least_bytes for one in claims)
    weights = sum(one.weight for one in claims)
    for one in claims:
        part = one.floor_bytes + max(0, spare) * one.weight // weights
        assert kept[one.vm] >= min(full(one, 0), part)


def check_monotone(claims: Sequence[Claim], budget: int, kept: dict[str, int], more: int) -> None:
    """More budget takes nothing from anybody, and adds no more than there is more."""
    after = allocate(claims, budgets(budget + more))
    assert all(after[vm] >= kept[vm] for vm in kept)
    assert sum(after.values()) - sum(kept.values()) <= more


def check_noise(
    claims: Sequence[Claim], budget: int, kept: dict[str, int], dice: random.Random
) -> None:
    """Claims of one VM that move by d move all sizes together by no more than 2 d."""
    index = dice.randrange(len(claims))
    one = claims[index]
    most = dice.choice([1, 2, MIB])
    moved = tuple(max(0, tier + dice.randint(-most, most)) for tier in one.tiers_bytes)
    moved = tuple(max(moved[: tier + 1]) for tier in range(TIERS))
    by = max(abs(a - b) for a, b in zip(moved, one.tiers_bytes, strict=True))
    after = allocate(
        [*claims[:index], one._replace(tiers_bytes=moved), *claims[index + 1 :]], budgets(budget)
    )
    assert sum(abs(after[vm] - kept[vm]) for vm in kept) <= 2 * by


def check_order_of_names(
    claims: Sequence[Claim], budget: int, kept: dict[str, int], dice: random.Random
) -> None:
    shuffled = list(claims)
    dice.shuffle(shuffled)
    assert allocate(shuffled, budgets(budget)) == kept


def test_every_promise_holds_for_random_fleets() -> None:
    dice = random.Random(16)  # noqa: S311 - to be repeatable
    for _ in range(FLEETS):
        claims, budget = random_fleet(dice)
        kept = allocate(claims, budgets(budget))
        check_sum(claims, budget, kept)
        check_order_of_tiers(claims, kept)
        check_fair_part(claims, budget, kept)
        check_monotone(claims, budget, kept, dice.choice([1, 7, MIB]))
        check_noise(claims, budget, kept, dice)
        check_order_of_names(claims, budget, kept, dice)


def test_surplus_never_touches_the_pool() -> None:
    dice = random.Random(17)  # noqa: S311 - to be repeatable
    for _ in range(500):
        claims, budget = random_fleet(dice)
        pool = dice.randint(0, budget)
        kept = allocate(claims, budgets(budget, pool))
        needs = sum(full(one, TIERS - 2) for one in claims)
        assert sum(kept.values()) <= max(needs, budget - pool)


def by_hand(rooms: dict[str, Room], water: int) -> dict[str, int]:
    """Byte by byte, to whoever has the least per weight with it."""
    poured = dict.fromkeys(rooms, 0)
    for _ in range(water):
        open_rooms = [
            (Fraction(room.start_bytes + poured[vm] + 1, room.weight), vm)
            for vm, room in rooms.items()
            if room.start_bytes + poured[vm] < room.end_bytes
        ]
        if not open_rooms:
            break
        poured[min(open_rooms)[1]] += 1
    return poured


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.builds(Room, st.integers(0, 9), st.integers(0, 20), st.integers(1, 9)),
        max_size=6,
    ),
    st.integers(-3, 60),
)
def test_water_is_poured_as_if_byte_by_byte(rooms: dict[str, Room], water: int) -> None:
    poured = pour(rooms, water)
    assert {vm: poured.get(vm, 0) for vm in rooms} == by_hand(rooms, water)
