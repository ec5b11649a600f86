"""A host with its guests, under one law, step by step; and how it went.

The host's memory is a wall: when the guests hold more, the one that holds most dies.
Units: bytes, seconds.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ballonet.autopilot.sample import HostSample, Round, VmSample
from bench.autopilot.laws import Law
from bench.autopilot.model.guest import MIB, Faults, Guest
from bench.autopilot.model.schedule import KINDS

__all__ = ["Fleet", "Outcome", "Scene", "run"]

STEP_S = 0.25


@dataclass(frozen=True, slots=True)
class Scene:
    """What is played."""

    seed: int
    guests: int = 6
    memory_bytes: int = 384 * MIB
    budget_share: float = 0.5  #: of the guests' memory together
    length_s: float = 75.0
    reserve_share: float = 0.05  #: of the budget
    faults: Mapping[int, Faults] = field(default_factory=dict)
    newest_tags: bool = False  #: Linux 6.12's statistics

    @property
    def budget_bytes(self) -> int:
        """The host's memory."""
        return int(self.guests * self.memory_bytes * self.budget_share)

    @property
    def reserve_bytes(self) -> int:
        """What of it is the host's own."""
        return int(self.budget_bytes * self.reserve_share)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went, all guests together."""

    deaths: int  #: of whole VMs, by the host
    kills: int  #: of programs, by their guest's kernel
    needless: int  #: of them, while all that was wanted would have fitted into the budget
    deficit_s: float
    bursts: str
    relief_median_s: float
    relief_most_s: float
    stall_s: float
    over_share: float  #: of the time that the guests kept more than the budget
    turns: int  #: changes of direction
    moved_gib: float
    kept_share: float  #: of their memory, in the mean


class Fleet:
    """The guests and what the host has left."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.now_s = scene, 0.0
        dice = random.Random(scene.seed)  # noqa: S311 -- a seed, so that it can be played again
        self.guests = [
            Guest(
                f"{index:03d}",
                scene.memory_bytes,
                KINDS[index % len(KINDS)](dice, scene.length_s),
                dice,
                scene.faults.get(index, Faults()),
            )
            for index in range(scene.guests)
        ]
        self._frozen: dict[str, VmSample] = {}

    @property
    def wanted_bytes(self) -> float:
        """What all guests want, their kernels included."""
        return sum(one.wanted_bytes + one.least_bytes for one in self.guests)

    def advance(self, seconds: float) -> None:
        """A little later."""
        self.now_s += seconds
        for one in self.guests:
            one.advance(seconds)
        if sum(one.held_bytes for one in self.guests) > self.scene.budget_bytes:
            max(self.guests, key=lambda one: one.held_bytes).die()

    def look(self, period_s: float) -> Round:
        """What a law sees."""
        held = sum(one.held_bytes for one in self.guests)
        host = HostSample(self.scene.budget_bytes, max(0, int(self.scene.budget_bytes - held)))
        return Round(self.now_s, host, tuple(self._sample(one) for one in self.guests), period_s)

    def _sample(self, one: Guest) -> VmSample:
        hidden = 0 if one.faults.deflates_on_oom else one.memory_bytes - one.actual_bytes
        said = {
            "avail": 0 if one.faults.lies and self.now_s > 10 else int(one.available_bytes),
            "memfree": int(one.free_bytes),
            "memtot": int(one.memory_bytes - hidden - 10 * MIB),
            "caches": int(one.cache_bytes),
        }
        tags = ["swap_in", "swap_out", "majflt"]
        if self.scene.newest_tags:
            tags += ["oom_kill", "alloc_stall", "direct_reclaim"]
        said |= {tag: int(one.counters[tag]) for tag in tags}
        answer = self.now_s
        sample = VmSample(
            one.name,
            one.memory_bytes,
            int(one.actual_bytes),
            None,
            int(one.held_bytes),
            said,
            answer,
            self.now_s - answer,
        )
        if one.faults.is_frozen and self.now_s > 10:
            last = self._frozen.setdefault(one.name, sample)
            return VmSample(
                one.name,
                one.memory_bytes,
                int(one.actual_bytes),
                None,
                int(one.held_bytes),
                last.statistics,
                last.statistics_id,
                self.now_s - answer,
            )
        return sample


def run(scene: Scene, law: Law, watch: Callable[[Fleet], None] = lambda _: None) -> Outcome:
    """Play a scene; `watch` sees every step."""
    fleet, due, next_s = Fleet(scene), dict[str, int](), 0.0
    way: dict[str, int] = {}
    turns, moved, steps, over, kept = 0, 0.0, 0, 0, 0.0
    needless = 0
    while fleet.now_s < scene.length_s:
        before = {one.name: one.actual_bytes for one in fleet.guests}
        for one in fleet.guests:
            target = due.pop(one.name, None)
            if target is None or target == one.target_bytes:
                continue
            direction = 1 if target > one.target_bytes else -1
            turns += way.get(one.name, direction) != direction
            way[one.name] = direction
            one.target_bytes = target
        if fleet.now_s >= next_s:
            due = dict(law.decide(fleet.look(law.period_s)))
            next_s += law.period_s
        killed = sum(one.losses.kills for one in fleet.guests)
        fleet.advance(STEP_S)
        if fleet.wanted_bytes <= scene.budget_bytes - scene.reserve_bytes:
            needless += sum(one.losses.kills for one in fleet.guests) - killed
        watch(fleet)
        steps += 1
        moved += sum(abs(one.actual_bytes - before[one.name]) for one in fleet.guests)
        sizes = sum(one.actual_bytes for one in fleet.guests)
        over += sizes > scene.budget_bytes
        kept += sizes / (scene.guests * scene.memory_bytes)
    return _outcome(fleet, needless, turns, moved, (over / steps, kept / steps))


def _outcome(
    fleet: Fleet, needless: int, turns: int, moved: float, shares: tuple[float, float]
) -> Outcome:
    losses = [one.losses for one in fleet.guests]
    reliefs = [one for each in losses for one in each.relief_s] or [0.0]
    served = sum(one.bursts_served for one in losses)
    return Outcome(
        sum(one.deaths for one in losses),
        sum(one.kills for one in losses),
        needless,
        sum(one.deficit_s for one in losses),
        f"{served}/{sum(one.bursts for one in losses)}",
        statistics.median(reliefs),
        max(reliefs),
        sum(one.stall_s for one in losses),
        shares[0],
        turns,
        moved / (1 << 30),
        shares[1],
    )
