"""The model of a fleet, with the autopilot and with the laws of others."""

from __future__ import annotations

import pytest
from bench.autopilot.laws import LAWS, Ours
from bench.autopilot.model.fleet import Fleet, Outcome, Scene, run
from bench.autopilot.model.guest import MIB, Faults

#: Not among those on which numbers were chosen.
SEEDS = (301, 302, 303)


def play(law: str, seed: int, **scene: object) -> Outcome:
    played = Scene(seed, **scene)  # type: ignore[arg-type]
    return run(played, LAWS[law](played))


def test_the_same_seed_is_the_same_play() -> None:
    assert play("autopilot", 301) == play("autopilot", 301)
    assert play("autopilot", 301) != play("autopilot", 302)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_sizes_of_all_stay_within_the_budget_once_they_are(seed: int) -> None:
    scene, sums = Scene(seed), []

    def watch(fleet: Fleet) -> None:
        if fleet.now_s > 10:
            sums.append(sum(one.actual_bytes for one in fleet.guests))

    run(scene, LAWS["autopilot"](scene), watch)
    assert max(sums) <= scene.budget_bytes - scene.reserve_bytes


def test_it_serves_bursts_that_an_equal_split_cannot() -> None:
    ours = [play("autopilot", seed) for seed in SEEDS]
    split = [play("equal split", seed) for seed in SEEDS]
    assert sum(one.kills for one in ours) * 2 < sum(one.kills for one in split)
    assert sum(one.deficit_s for one in ours) * 2 < sum(one.deficit_s for one in split)


def test_memory_moves_seldom_enough() -> None:
    for seed in SEEDS:
        outcome = play("autopilot", seed)
        assert outcome.turns <= 30
        assert outcome.moved_gib <= 5


def test_with_deflate_on_oom_nobody_is_killed() -> None:
    faults = dict.fromkeys(range(6), Faults(deflates_on_oom=True))
    assert not play("autopilot", 301, faults=faults).kills


@pytest.mark.parametrize(
    "fault",
    [Faults(refuses=True), Faults(is_frozen=True), Faults(lies=True)],
    ids=["it refuses", "its statistics stop", "it lies"],
)
def test_a_guest_at_fault_brings_no_host_over_its_budget(fault: Faults) -> None:
    scene, held = Scene(301, faults={0: fault}), []
    law = LAWS["autopilot"](scene)
    assert isinstance(law, Ours)
    run(scene, law, lambda fleet: held.append(sum(one.held_bytes for one in fleet.guests)))
    assert max(held) <= scene.budget_bytes
    assert law.last is not None
    assert all(one.to_bytes >= 96 * MIB for one in law.last.verdicts)
