"""An embedded guest of 1 GiB moves between two processes: what is not sent, how long it stands.

The guest works, most of its memory was used once and is free.  Each round moves one with hints and
one without, each between two machines of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ballonet.errors import GuestError
from ballonet.guests.machine_process import MachineProcess, MachineSettings
from ballonet.guests.processes import PrivateDirectory
from ballonet.units import pages_to_bytes
from bench.report import Figure, Ratio

__all__ = ["measure"]

ROUNDS: Final = 5
_MEMORY: Final = 1 << 30
_DOWNTIME_MS: Final = 100
_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class _Move:
    sent_bytes: int
    free_bytes: int
    hinted_bytes: int
    downtime_ms: int
    total_ms: int


def measure() -> Iterator[Figure | Ratio]:
    """Moves in turns, with hints and without."""
    moves: dict[bool, list[_Move]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for hints, found in moves.items():
            found.append(_move(hints=hints))
    what = "m. an embedded guest of 1 GiB moves"
    yield Figure(
        f"{what}: free memory that was sent all the same",
        [100 * max(0, 1 - one.hinted_bytes / one.free_bytes) for one in moves[True]],
        "%",
        5,
    )
    yield Figure(
        f"{what}: time the guest stands still, {_DOWNTIME_MS} ms allowed",
        [one.downtime_ms for one in moves[True]],
        "ms",
        _DOWNTIME_MS + 50,
    )
    yield Ratio(
        f"{what}: bytes sent",
        "with hints",
        "without",
        [one.sent_bytes / (1 << 20) for one in moves[True]],
        [one.sent_bytes / (1 << 20) for one in moves[False]],
        "MiB",
    )
    yield Ratio(
        f"{what}: seconds",
        "with hints",
        "without",
        [one.total_ms / 1000 for one in moves[True]],
        [one.total_ms / 1000 for one in moves[False]],
    )


def _move(*, hints: bool) -> _Move:
    with (
        PrivateDirectory("ballonet-bench-", mark="{}/") as directory,
        MachineProcess(directory, "source", MachineSettings(_MEMORY, "web")) as source,
        MachineProcess(
            directory, "destination", MachineSettings(_MEMORY, waits_for_guest=True)
        ) as destination,
    ):
        source.ask("use_memory", percent=70)
        source.ask("hog", size=_MEMORY // 8)
        free_bytes = source.ask("meminfo")["MemFree"]
        capability = {"capability": "x-ballonet-hints", "state": hints}
        source.execute("migrate-set-capabilities", capabilities=[capability])
        source.execute("migrate-set-parameters", **{"downtime-limit": _DOWNTIME_MS})
        source.execute("migrate", uri=destination.uri)
        look = _wait(source)
        destination.ask("release_hogs")  # which looks at every page of theirs
        ram = look["ram"]
        return _Move(
            ram["transferred"],
            free_bytes,
            pages_to_bytes(ram["x-ballonet-hinted"]),
            look["downtime"],
            look["total-time"],
        )


def _wait(source: MachineProcess) -> dict[str, Any]:
    """Raises: GuestError."""
    end_s = time.monotonic() + _TIMEOUT_S
    while True:
        look: dict[str, Any] = source.execute("query-migrate")
        if look["status"] == "completed":
            return look
        if look["status"] in ("failed", "cancelled") or time.monotonic() > end_s:
            raise GuestError(f"the guest did not move: {look}")
        time.sleep(0.02)
