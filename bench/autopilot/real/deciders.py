"""Who decides during a play: a law in this process, or the agent as operators run it.

Units: bytes, seconds.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Final, Protocol

from ballonet.autopilot.sample import HostSample, Round
from ballonet.errors import BallonetError
from ballonet.vms.adapters import connected_to
from ballonet.vms.autopilot_sample import vm_sample
from ballonet.vms.poll_keeper import PollKeeper
from ballonet.vms.sighting import Sighting
from ballonet.vms.watch import Watch
from bench.autopilot.laws import Law
from bench.autopilot.real.wall import Wall
from bench.device_process import cpu_seconds

__all__ = ["Decider", "agent_deciding", "law_deciding"]

_PATTERN: Final = "real*"
_PATIENCE_S: Final = 1.0


class Decider(Protocol):
    """While it decides."""

    def cpu_s(self) -> float:
        """Processor time so far."""
        ...


class _Agent:
    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu_s(self) -> float:
        return cpu_seconds(self._pid)


@contextmanager
def agent_deciding(folder: Path, budget_bytes: int, mode: str) -> Iterator[Decider]:
    """`ballonet agent` with its autopilot."""
    path = folder / "ballonet.toml"
    path.write_text(
        f'[agent]\nperiod_s = 1.0\npoll_interval_s = 1\nmatch = ["{_PATTERN}"]\n'
        '[metrics]\nlisten = "127.0.0.1:0"\n'
        f'[autopilot]\nenable = true\nmode = "{mode}"\nbudget = "{budget_bytes}B"\n'
        "record_rounds = true\n"
    )
    command = [sys.executable, "-m", "ballonet", "agent", "--config", str(path)]
    with subprocess.Popen(
        [*command, "--directory", str(folder / "agent")], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            next(line for line in process.stderr or () if "metrics are at" in line)
            Thread(target=_drain, args=(process,), daemon=True).start()
            yield _Agent(process.pid)
        finally:
            process.terminate()


def _drain(process: subprocess.Popen[str]) -> None:
    for _ in process.stderr or ():
        pass


class _InThread:
    """A law in a thread of this process."""

    def __init__(self, law: Law, wall: Wall, limit_bytes: int) -> None:
        self._law, self._wall, self._limit_bytes = law, wall, limit_bytes
        self._stop = Event()
        self._cpu_s = 0.0
        self._thread = Thread(target=lambda: asyncio.run(self._run()))

    def cpu_s(self) -> float:
        return self._cpu_s

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        keeper = PollKeeper(1)
        async with Watch([_PATTERN]) as watch:
            try:
                due_s = time.monotonic()
                while not self._stop.is_set():
                    begun_s = time.thread_time()
                    found = await watch.round(_PATIENCE_S)
                    await keeper.keep(found)
                    await self._decide(
                        watch, {one.sighting.who.name: one.sighting for one in found}
                    )
                    self._cpu_s += time.thread_time() - begun_s
                    due_s = max(due_s + self._law.period_s, time.monotonic())
                    while time.monotonic() < due_s and not self._stop.is_set():
                        await asyncio.sleep(0.1)
            finally:
                await keeper.put_back()

    async def _decide(self, watch: Watch, sightings: dict[str, Sighting]) -> None:
        found = await watch.round(_PATIENCE_S)
        now_s = time.monotonic()
        samples = tuple(
            vm_sample(one.sighting.who.name, one.observation, now_s=now_s, why_not=one.why_not)
            for one in found
            if one.observation.actual_bytes is not None
        )
        host = HostSample(self._limit_bytes, max(0, self._limit_bytes - self._wall.used_bytes))
        targets = self._law.decide(Round(now_s, host, samples, self._law.period_s))
        await asyncio.gather(*(_ask(sightings[vm], size) for vm, size in targets.items()))


async def _ask(sighting: Sighting, size: int) -> None:
    with suppress(BallonetError, TimeoutError):
        async with asyncio.timeout(_PATIENCE_S), connected_to(sighting) as machine:
            await machine.set_logical_bytes(size)


@contextmanager
def law_deciding(law: Law, wall: Wall, limit_bytes: int) -> Iterator[Decider]:
    """One of the others."""
    decider = _InThread(law, wall, limit_bytes)
    decider.begin()
    try:
        yield decider
    finally:
        decider.end()
