"""One play: six kernels, or more, at work inside a wall, under one law.

Units: bytes, seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.autopilot.laws import LAWS
from bench.autopilot.real.deciders import Decider, agent_deciding, law_deciding
from bench.autopilot.real.figures import Outcome, Seen, outcome_of
from bench.autopilot.real.guests import MEMORY_BYTES, MIB, NAMES, Fleet, fleet
from bench.autopilot.real.qemu_guests import QEMU_OWN_BYTES
from bench.autopilot.real.wall import Wall, wall_of
from bench.host_process import ask_host

__all__ = ["REAL_LAWS", "play"]

#: Of each guest beside what it keeps: what its kernel does not share, and its process's own.
_OVERHEAD_BYTES: Final = 32 * MIB
_LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """What there is for so many guests: half of what they have."""

    qemus: int  #: beside the six
    reserve_bytes: int = 0

    @property
    def guests(self) -> int:
        """All of them."""
        return len(NAMES) + self.qemus

    @property
    def budget_bytes(self) -> int:
        """For all guests together."""
        return self.guests * MEMORY_BYTES // 2

    @property
    def wall_bytes(self) -> int:
        """Whoever goes beyond that is killed."""
        own_bytes = len(NAMES) * _OVERHEAD_BYTES + self.qemus * QEMU_OWN_BYTES
        return self.budget_bytes + own_bytes


Begin = Callable[[Path, Wall, Limits], AbstractContextManager[Decider]]


@dataclass(frozen=True, slots=True)
class RealLaw:
    """Who decides, and with which devices."""

    begin: Begin
    deflates_on_oom: bool = False
    has_wall: bool = True


def _by_law(name: str) -> Begin:
    return lambda _, wall, limits: law_deciding(LAWS[name](limits), wall, limits.wall_bytes)


def _by_agent(mode: str) -> Begin:
    return lambda folder, _, limits: agent_deciding(folder, limits.budget_bytes, mode)


#: By name, in the order in which they are played.
REAL_LAWS: Final[Mapping[str, RealLaw]] = {
    "nothing, no wall": RealLaw(_by_law("nothing"), has_wall=False),
    "nothing": RealLaw(_by_law("nothing")),
    "equal split": RealLaw(_by_law("equal split")),
    "equal split, deflate-on-oom": RealLaw(_by_law("equal split"), deflates_on_oom=True),
    "MOM": RealLaw(_by_law("MOM")),
    "MOM, 2.5 s": RealLaw(_by_law("MOM, 2.5 s")),
    "Proxmox": RealLaw(_by_law("Proxmox")),
    "Proxmox, 2.5 s": RealLaw(_by_law("Proxmox, 2.5 s")),
    "autopilot": RealLaw(_by_agent("return")),
    "autopilot, hold": RealLaw(_by_agent("hold")),
    "autopilot, deflate-on-oom": RealLaw(_by_agent("return"), deflates_on_oom=True),
}


def play(
    name: str, seed: int, length_s: float, qemus: int = 0, record: Path | None = None
) -> Outcome:
    """Play it once; `record`: where the agent's rounds are kept. Raises: BallonetError."""
    law, limits = REAL_LAWS[name], Limits(qemus)
    limit_bytes = limits.wall_bytes if law.has_wall else 4 * limits.wall_bytes
    seen = Seen()
    with (
        TemporaryDirectory(prefix="ballonet-bench-") as folder,
        wall_of(limit_bytes) as wall,
        fleet(seed, length_s, wall, qemus, deflates_on_oom=law.deflates_on_oom) as guests,
        law.begin(Path(folder), wall, limits) as decider,
    ):
        _settle(guests)
        guests.begin()
        begun_s, begun_cpu_s = time.monotonic(), decider.cpu_s()
        while time.monotonic() - begun_s < length_s + 2 * _LOOK_S:
            _look(guests, seen)
            time.sleep(_LOOK_S)
        seconds = time.monotonic() - begun_s
        agent_percent = 100 * (decider.cpu_s() - begun_cpu_s) / seconds
        ledger = Path(folder) / "agent" / "autopilot.jsonl"
        if record is not None and ledger.exists():
            record.write_bytes(ledger.read_bytes())
        return outcome_of(
            (*guests.loads, *guests.qemus),
            seen,
            limits.budget_bytes,
            deaths=guests.deaths,
            agent_percent=agent_percent,
            load=os.getloadavg()[0],
        )


def _settle(guests: Fleet) -> None:
    """Let the law do what it does at the beginning: that is not what is compared."""
    end_s = time.monotonic() + 8 * _LOOK_S
    while time.monotonic() < end_s:
        _look(guests, Seen())
        time.sleep(_LOOK_S)


def _look(guests: Fleet, seen: Seen) -> None:
    rows = {row["name"]: row for row in ask_host(guests.directory, "x-ballonet-query-guests")}
    known = {vm: row for vm, row in rows.items() if row["memory"] and row["actual"] is not None}
    actual = {vm: row["memory"] - row["actual"] for vm, row in known.items()}
    for qemu in guests.qemus:
        kept_bytes = qemu.actual_bytes()
        if kept_bytes is not None:
            actual[qemu.name] = kept_bytes
    seen.actual.append(actual)
    seen.targets.append({vm: row["memory"] - row["target"] for vm, row in known.items()})
