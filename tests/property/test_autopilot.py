"""What the autopilot's law keeps to, whatever guests, hosts and clocks do.

125 plays, or a sixteenth of BALLONET_FLEETS.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, replace
from typing import Final

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.support.autopilot_fleet import MIB, Fleet, Guest

from ballonet.autopilot.law import FIRST, LawState, Step, step
from ballonet.autopilot.sample import HostSample, Round, VmSample
from ballonet.autopilot.settings import Mode, Settings, VmPolicy

FLEETS: Final = int(os.environ.get("BALLONET_FLEETS", "2000"))
MEMORY = 1024 * MIB
RESERVE = 64 * MIB
#: An answer is of no use after this, in rounds of a second.
STALE_S = 10
#: Above what a guest uses it always keeps this much.
PAD = 20 * MIB

ROUNDS = 14
VMS = 3
NAMES = ("avail", "memfree", "memtot", "caches", "swap_in", "majflt", "oom_kill")


@dataclass(frozen=True)
class Act:
    """What one VM does in one round."""

    is_there: bool
    part: float  #: of the way to its target
    jump: int | None  #: ... or it has this, whatever it was asked
    says: dict[str, int]
    is_new: bool
    held: int | None
    no_answer: bool
    in_use: bool


def random_words(dice: random.Random) -> dict[str, int]:
    """An answer as guests give them, or anything at all."""
    if dice.random() < 0.7:
        free = dice.randint(0, MEMORY)
        said = {"avail": free, "memfree": dice.randint(0, free), "memtot": MEMORY - 10 * MIB}
        return said | {"swap_in": dice.randint(0, 5) * MIB, "oom_kill": dice.randint(0, 1)}
    odd = (0, 1, -1, -(2**70), 2**64 - 1, 2**70, MEMORY, MEMORY + 1, dice.randint(0, MEMORY))
    return {name: dice.choice(odd) for name in NAMES if dice.random() < 0.6}


def random_act(dice: random.Random) -> Act:
    return Act(
        is_there=dice.random() < 0.95,
        part=dice.choice([0.0, 0.3, 1.0]),
        jump=dice.randint(-1, MEMORY) if dice.random() < 0.1 else None,
        says=random_words(dice),
        is_new=dice.random() < 0.8,
        held=dice.choice([None, dice.randint(0, MEMORY), dice.randint(0, MEMORY)]),
        no_answer=dice.random() < 0.05,
        in_use=dice.random() < 0.05,
    )


def random_settings(dice: random.Random) -> Settings:
    policies = {}
    if dice.random() < 0.5:
        policies["0"] = VmPolicy(dice.randint(0, MEMORY), dice.randint(1, 5000))
    if dice.random() < 0.2:
        policies["1"] = VmPolicy(is_excluded=True)
    return Settings(
        dice.choice(list(Mode)),
        RESERVE,
        dice.choice([None, None, dice.randint(0, 6 * MEMORY)]),
        policies,
    )


class Play:
    """Rounds as they are drawn, and what was true of every VM in them."""

    def __init__(self, rules: Settings) -> None:
        self.rules, self.state, self.at_s = rules, FIRST, 1e7
        self.targets: dict[str, int] = {}
        self.actuals: dict[str, int] = {}
        self.said: dict[str, tuple[float | None, dict[str, int]]] = {}
        self.said_at_s: dict[str, float] = {}
        self.latest_s = self.at_s
        self.answers = 0

    def round(self, acts: list[Act], available: int | None, later_s: float) -> tuple[Round, Step]:
        self.at_s += later_s
        self.latest_s = max(self.latest_s, self.at_s)
        samples = tuple(
            self._sample(str(index), act) for index, act in enumerate(acts) if act.is_there
        )
        seen = Round(self.at_s, HostSample(8 * MEMORY, available), samples)
        before = self.state
        decided = step(before, seen, self.rules)
        self.state = decided.state
        there = {one.vm for one in samples}
        for vm in set(self.targets) - there:
            for known in (self.targets, self.actuals, self.said, self.said_at_s):
                known.pop(vm, None)
        return seen, decided

    def _sample(self, vm: str, act: Act) -> VmSample:
        actual = self.actuals.get(vm, MEMORY)
        actual += int((self.targets.get(vm, actual) - actual) * act.part)
        if act.jump is not None:
            actual = act.jump
        self.actuals[vm] = actual
        last = self.said.get(vm)
        if act.is_new or last is None:
            self.answers += 1
            last = (float(self.answers), act.says)
            self.said_at_s[vm] = self.latest_s
            self.said[vm] = last
        return VmSample(
            vm,
            MEMORY,
            actual,
            None,
            None if act.held is None else min(act.held, actual),
            last[1],
            last[0],
            self.latest_s - self.said_at_s[vm],
            no_answer="it is gone" if act.no_answer else "",
            in_use="it is paused" if act.in_use else "",
        )


def charged(target: int, sample: VmSample) -> int:
    return max(sample.actual_bytes or 0, target, sample.held_bytes or 0)


def promised(target: int, sample: VmSample) -> int:
    return max(0, max(sample.actual_bytes or 0, target) - (sample.held_bytes or 0))


def check_reserve(seen: Round, decided: Step, rules: Settings) -> None:
    """If all guests touched all that they may, the reserve would stand, or stand as before."""
    samples = {one.vm: one for one in seen.vms}
    before = {one.vm: one.from_bytes for one in decided.verdicts}
    after = {one.vm: one.to_bytes for one in decided.verdicts}
    if seen.host.available_bytes is not None:
        left = [
            seen.host.available_bytes - RESERVE - sum(promised(of[vm], samples[vm]) for vm in of)
            for of in (before, after)
        ]
        assert left[1] >= min(0, left[0])
    if rules.budget_bytes is not None:
        sums = [sum(charged(of[vm], samples[vm]) for vm in of) for of in (before, after)]
        assert sums[1] <= max(sums[0], rules.budget_bytes)
    if seen.host.available_bytes is None and rules.budget_bytes is None:
        assert all(after[vm] <= max(before[vm], samples[vm].actual_bytes or 0) for vm in after)


def check_takes(play: Play, seen: Round, decided: Step) -> None:
    """Who is asked for memory has a floor, has just spoken sense, and does not suffer."""
    samples = {one.vm: one for one in seen.vms}
    for one in decided.changes:
        sample = samples[one.vm]
        assert 0 <= one.to_bytes <= MEMORY
        assert not sample.no_answer
        assert not sample.in_use
        policy = play.rules.policy_of(one.vm)
        assert not policy.is_excluded
        if one.to_bytes > one.from_bytes:
            continue
        said = sample.statistics
        assert one.to_bytes >= policy.least_of(MEMORY)
        assert play.latest_s - play.said_at_s[one.vm] <= STALE_S
        assert all(value >= 0 for value in said.values())
        if said:  # else what it said before still counts
            available = said.get("avail", said.get("memfree", 0) + said.get("caches", 0))
            assert available > MEMORY * 0.015
        # What it keeps may be up to three looks old, so use is only known to be no less than this.
        assert (sample.actual_bytes or 0) - one.to_bytes <= 700 * MIB


def check_words(decided: Step) -> None:
    for one in decided.verdicts:
        assert str(one).startswith(f"{one.vm} ")
        assert "{" not in str(one)


@settings(
    max_examples=FLEETS // 16, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
@given(st.integers(0, 2**32))
def test_it_is_safe_whatever_is_seen(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - to be repeatable
    rules = random_settings(dice)
    play = Play(rules)
    for _ in range(ROUNDS):
        if dice.random() < 0.1:  # the operator changes the configuration
            rules = play.rules = random_settings(dice)
        before: LawState = play.state
        available = dice.choice([None, *(dice.randint(0, 4 * MEMORY) for _ in range(6))])
        later_s = dice.choice([1.0, 1.0, 1.0, 1.0, 0.0, -100.0, 5.0, 1e6])
        acts = [random_act(dice) for _ in range(VMS)]
        seen, decided = play.round(acts, available, later_s)
        check_reserve(seen, decided, rules)
        check_takes(play, seen, decided)
        check_words(decided)
        shuffled = list(seen.vms)
        dice.shuffle(shuffled)
        assert step(before, replace(seen, vms=tuple(shuffled)), rules) == decided
        play.targets = {one.vm: one.to_bytes for one in decided.verdicts}


USES = st.lists(st.integers(30, 400), min_size=2, max_size=5)


@settings(max_examples=10, deadline=None)
@given(USES, st.sampled_from([0.3, 1.0]), st.integers(40, 90), st.sampled_from(Mode))
def test_where_demand_rests_memory_comes_to_rest(
    uses: list[int], pace: float, percent: int, mode: Mode
) -> None:
    guests = [Guest(str(k), used=use * MIB, pace=pace) for k, use in enumerate(uses)]
    fleet = Fleet(
        len(uses) * MEMORY * percent // 100,
        *guests,
        settings=Settings(mode=mode, reserve_bytes=RESERVE),
    )
    fleet.seconds(250)
    rest = fleet.seconds(60)
    assert not [str(change) for one in rest for change in one.changes]
    kept = sum(one.actual for one in guests)
    assert kept <= fleet.total - RESERVE
    for one in guests:
        assert one.actual >= min(one.used + PAD, one.memory)
        assert fleet.state.vms[one.name].asked.changes <= 2


@settings(max_examples=8, deadline=None)
@given(st.integers(1200, 1600), st.integers(1, 20))
def test_a_release_is_the_same_wherever_the_balloon_is_just_then(use: int, way: int) -> None:
    """The size that is asked for comes from what the guest uses, not from what it still has."""

    def released(missing_mib: int) -> int:
        guest = Guest("a", memory=2048 * MIB, used=use * MIB)
        fleet = Fleet(16384 * MIB, guest, settings=Settings(Mode.HOLD, reserve_bytes=0))
        fleet.seconds(60)
        guest.pace = 0.0
        guest.actual -= missing_mib * MIB
        guest.used += 60 * MIB
        fleet.second()
        assert fleet.verdict("a").is_change
        return fleet.verdict("a").to_bytes

    assert released(0) == released(way)
