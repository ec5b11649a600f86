"""One play: six kernels at work inside a wall, under one law.

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
from bench.autopilot.real.wall import Wall, wall_of
from bench.host_process import ask_host

__all__ = ["BUDGET_BYTES", "REAL_LAWS", "play"]

#: Half of what all have.
BUDGET_BYTES: Final = len(NAMES) * MEMORY_BYTES // 2
#: Of each guest beside what it keeps: what its kernel does not share, and its process's own.
_OVERHEAD_BYTES: Final = 32 * MIB
_LIMIT_BYTES: Final = BUDGET_BYTES + len(NAMES) * _OVERHEAD_BYTES
_LOOK_S: Final = 0.5

Begin = Callable[[Path, Wall], AbstractContextManager[Decider]]


@dataclass(frozen=True, slots=True)
class _Limits:
    budget_bytes: int = BUDGET_BYTES
    reserve_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RealLaw:
    """Who decides, and with which devices."""

    begin: Begin
    device_options: tuple[str, ...] = ()
    has_wall: bool = True


def _by_law(name: str) -> Begin:
    return lambda _, wall: law_deciding(LAWS[name](_Limits()), wall, _LIMIT_BYTES)


def _by_agent(mode: str) -> Begin:
    return lambda folder, _: agent_deciding(folder, BUDGET_BYTES, mode)


_OOM: Final = ("--deflate-on-oom",)
#: By name, in the order in which they are played.
REAL_LAWS: Final[Mapping[str, RealLaw]] = {
    "nothing, no wall": RealLaw(_by_law("nothing"), has_wall=False),
    "nothing": RealLaw(_by_law("nothing")),
    "equal split": RealLaw(_by_law("equal split")),
    "equal split, deflate-on-oom": RealLaw(_by_law("equal split"), _OOM),
    "MOM": RealLaw(_by_law("MOM")),
    "MOM, 2.5 s": RealLaw(_by_law("MOM, 2.5 s")),
    "Proxmox": RealLaw(_by_law("Proxmox")),
    "Proxmox, 2.5 s": RealLaw(_by_law("Proxmox, 2.5 s")),
    "autopilot": RealLaw(_by_agent("return")),
    "autopilot, hold": RealLaw(_by_agent("hold")),
    "autopilot, deflate-on-oom": RealLaw(_by_agent("return"), _OOM),
}


def play(name: str, seed: int, length_s: float, record: Path | None = None) -> Outcome:
    """Play it once; `record`: where the agent's rounds are kept. Raises: GuestError."""
    law = REAL_LAWS[name]
    limit_bytes = _LIMIT_BYTES if law.has_wall else len(NAMES) * 2 * MEMORY_BYTES
    seen = Seen()
    with (
        TemporaryDirectory(prefix="ballonet-bench-") as folder,
        wall_of(limit_bytes) as wall,
        fleet(seed, length_s, wall, *law.device_options) as guests,
        law.begin(Path(folder), wall) as decider,
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
            guests.loads,
            seen,
            BUDGET_BYTES,
            deaths=len(NAMES) - guests.alive,
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
    seen.actual.append({vm: row["memory"] - row["actual"] for vm, row in known.items()})
    seen.targets.append({vm: row["memory"] - row["target"] for vm, row in known.items()})
