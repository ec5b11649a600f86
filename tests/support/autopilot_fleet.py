"""A fleet for the autopilot's law: guests that do as they are told, or what a test wants.

Nothing of the law is used to check the law: what must hold is computed from what was seen.
Units: bytes, seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ballonet.autopilot.explanation import Verdict
from ballonet.autopilot.law import FIRST, LawState, Step, step
from ballonet.autopilot.sample import HostSample, Round, VmSample
from ballonet.autopilot.settings import Settings

MIB = 1 << 20
HIDDEN = 10 * MIB


@dataclass
class Guest:
    """One whose programs use a fixed amount; its balloon moves by a part of the way each second."""

    name: str
    memory: int = 1024 * MIB
    used: int = 200 * MIB  #: its kernel included
    caches: int = 0
    touched: int = 0
    actual: int = -1  #: -1: all
    target: int = -1
    pace: float = 1.0
    least_free: int = 4 * MIB
    answer: float | None = 1.0
    counters: dict[str, int] = field(default_factory=dict)
    no_answer: str = ""
    in_use: str = ""
    deflates_on_oom: bool | None = None
    counts_balloon: bool = False  #: in MemTotal
    says: Mapping[str, int] | None = None
    is_frozen: bool = False

    def __post_init__(self) -> None:
        if self.actual < 0:
            self.actual = self.memory
        if self.target < 0:
            self.target = self.actual

    @property
    def available(self) -> int:
        return max(0, self.actual - self.used)

    @property
    def held(self) -> int:
        """All that it uses has been touched, and what a test says."""
        return min(self.actual, max(self.touched, self.used + self.caches))

    def second(self) -> None:
        """Its balloon moves; it never gives what its programs use."""
        goal = max(self.target, min(self.actual, self.used + self.least_free))
        self.actual += int((goal - self.actual) * self.pace)
        if self.answer is not None and not self.is_frozen:
            self.answer += 1.0

    def freeze(self) -> None:
        """Its statistics stay as they are."""
        self.says, self.is_frozen = self.sample().statistics, True

    def sample(self) -> VmSample:
        total = (self.memory if self.counts_balloon else self.actual) - HIDDEN
        said = {
            "avail": self.available,
            "memfree": max(0, self.available - self.caches),
            "memtot": total,
            "caches": self.caches,
            **self.counters,
        }
        return VmSample(
            self.name,
            self.memory,
            self.actual,
            None,
            self.held,
            said if self.says is None else self.says,
            self.answer,
            0.0,
            deflates_on_oom=self.deflates_on_oom,
            no_answer=self.no_answer,
            in_use=self.in_use,
        )


class Fleet:
    """Guests on a host, and the law over them, a second at a time."""

    def __init__(
        self, total: int, *guests: Guest, settings: Settings | None = None, others: int = 0
    ) -> None:
        self.total, self.others = total, others
        self.guests = {one.name: one for one in guests}
        self.settings = settings or Settings(reserve_bytes=0)
        self.state: LawState = FIRST
        self.at_s = 1000.0
        self.lease = 0
        self.last: Step

    def seen(self) -> Round:
        held = sum(one.held for one in self.guests.values())
        host = HostSample(self.total, max(0, self.total - self.others - held))
        samples = tuple(one.sample() for one in self.guests.values())
        return Round(self.at_s, host, samples, 1.0, self.lease)

    def second(self) -> Step:
        """Look, decide, ask, and let the guests do it."""
        self.last = step(self.state, self.seen(), self.settings)
        self.state = self.last.state
        for one in self.last.changes:
            self.guests[one.vm].target = one.to_bytes
        for guest in self.guests.values():
            guest.second()
        self.at_s += 1.0
        return self.last

    def seconds(self, count: int) -> list[Step]:
        return [self.second() for _ in range(count)]

    def verdict(self, vm: str) -> Verdict:
        return next(one for one in self.last.verdicts if one.vm == vm)

    def set(self, **changes: object) -> None:
        """Other settings from now on."""
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
